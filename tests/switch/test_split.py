"""When both sides have written, when not, and when nobody knows: each with its sentence and the commands out of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rha import splitview
from rha.report import Point
from rha.switch.split import Evidence, Heard, Substitute, judge, unknowns
from rha.switch.ways import kept_name, ways
from rha.vm.written import DiskWritten
from rha.wire.messages import Alone, AloneDisk

ORDERED = AloneDisk(name="root", state="ordered")
MARKED = AloneDisk(name="data", state="marked", dirty_bytes=3 << 20, since=120.0, why="the ring was full")
UNKNOWN = AloneDisk(name="data", state="unknown", why="the host was restarted")
WROTE = DiskWritten(name="root", overlay="/s/root.qcow2", held_bytes=131072, guest_bytes=70000)
EMPTY = DiskWritten(name="root", overlay="/s/root.qcow2", held_bytes=0)


def alone(**words: Any) -> Alone:
    fields: dict[str, Any] = {"acknowledged_lsn": 4096, "lsn": 4096, "records": 0, "payload_bytes": 0}
    return Alone(**{**fields, "disks": [ORDERED], **words})


def evidence(
    said: Alone | None = None, *, written: list[DiskWritten] | None = None, master: bool = True, **words: Any
) -> Evidence:
    heard = Heard(host="web1.example", peer="192.0.2.7:4000", time=300.0, decided=200.0, generation="a", alone=said)
    fields: dict[str, Any] = {
        "scenario": "web1",
        "kind": "failover",
        "reason": "its rack burns",
        "by": "eve",
        "decided": 200.0,
        "common": Point(lsn=4096, time=100.0),
        "received_lsn": 4096,
        "generation": "a",
        "substitute": Substitute(domain="rha-web1", state="running", started=210.0, disks=written or [WROTE]),
        "master": heard if master else None,
        "devices": {"root": "/dev/vda", "data": "/dev/disk/by-id/a b"},
        "units": ["nginx.service"],
    }
    return Evidence(**{**fields, **words})


WRITTEN = alone(lsn=16480, records=3, payload_bytes=12288, first=110.0, last=150.0)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (evidence(WRITTEN), "split", "since LSN 4096 "),
        (evidence(WRITTEN), "split", "wrote 12 KiB in 3 records, its substitute 68.4 KiB (128 KiB of clusters) since "),
        (evidence(alone()), "none", "the master of web1 has written nothing since LSN 4096"),
        (evidence(WRITTEN, written=[EMPTY]), "none", "the substitute of web1 has written nothing"),
        (evidence(master=False), "unheard", "has not come since"),
        (evidence(None), "possible", "its engine does not say"),
        (evidence(alone(disks=[ORDERED, UNKNOWN])), "possible", "data: the host was restarted; compare needed"),
        (evidence(alone(disks=[ORDERED, MARKED])), "split", "wrote at most 3 MiB in ranges of data, its substitute"),
        (evidence(WRITTEN, generation="b"), "possible", "its LSNs are another count"),
        (evidence(alone(), common=None), "possible", "no point of the master (forced)"),
        (evidence(WRITTEN, kind="switchover"), "released", "the master had handed over"),
        (evidence(alone(disks=[UNKNOWN]), kind="switchover"), "possible", "the host was restarted"),
    ],
)
def test_the_verdict_and_its_sentence(given: Evidence, kind: str, words: str) -> None:
    verdict = judge(given)
    assert (verdict.kind, verdict.is_alarm) == (kind, kind in ("split", "possible"))
    assert words in verdict.sentence, verdict.sentence


@pytest.mark.parametrize(
    ("acknowledged", "words"), [(2048, "at most 12 KiB"), (4096, "wrote 12 KiB"), (8192, "at least 12 KiB")]
)
def test_what_was_counted_from_another_place_is_a_bound(acknowledged: int, words: str) -> None:
    said = msgspec.structs.replace(WRITTEN, acknowledged_lsn=acknowledged)
    assert words in judge(evidence(said)).sentence


def test_what_was_not_counted_is_told_by_its_length() -> None:
    spooled = msgspec.structs.replace(WRITTEN, records=None, payload_bytes=None)
    assert "wrote 12.1 KiB of stream" in judge(evidence(spooled)).sentence


def test_an_overlay_that_cannot_be_asked_is_not_empty() -> None:
    broken = DiskWritten(name="root", overlay="/s/root.qcow2", why="no such file")
    assert judge(evidence(WRITTEN, written=[broken])).kind == "split"
    assert judge(evidence(WRITTEN, written=[msgspec.structs.replace(EMPTY, guest_bytes=512)])).kind == "split"


def test_the_commands_name_what_is_there() -> None:
    theirs, mine = ways(evidence(WRITTEN), overwrites=True)
    kept = kept_name(200.0)
    assert [(act.on, act.command) for act in theirs.acts] == [
        ("web1.example", "systemctl stop nginx.service"),
        (
            "web1.example",
            "dd if='/dev/disk/by-id/a b' of=/mnt/web1-data.raw bs=4M conv=sparse,fsync status=progress",
        ),
        ("web1.example", "dd if=/dev/vda of=/mnt/web1-root.raw bs=4M conv=sparse,fsync status=progress"),
        ("web1.example", "rha receive --scenario /etc/rha/web1.toml"),
        ("appliance", "rha switchback web1 --overwrite-master"),
        ("web1.example", "reboot"),
    ]
    assert mine.acts[0].command == "rha discard web1"
    assert mine.acts[-1].command == f"rha kept web1 --drop {kept}"
    commands = [act.command for act in mine.acts]
    assert f"rha mount web1 /mnt --at {kept}" in commands
    assert f"rha export web1 web1-data.qcow2 --disk data --at {kept}" in commands
    assert ways(evidence(alone()), overwrites=False)[0].acts[-2].command == "rha switchback web1"


def answer(given: Evidence) -> dict[str, Any]:
    verdict = judge(given)
    return {
        "sentence": verdict.sentence,
        "unknown": unknowns(given),
        "evidence": msgspec.to_builtins(given),
        "ways": msgspec.to_builtins(ways(given, overwrites=verdict.is_alarm)),
        "now": 400.0,
    }


def test_the_report_shows_both_sides() -> None:
    lines = list(splitview.report(answer(evidence(alone(lsn=16480, records=3, payload_bytes=12288, disks=[MARKED])))))
    text = "\n".join(lines)
    for words in (
        "failover by eve: its rack burns",
        "master      web1.example (192.0.2.7:4000), heard ",
        "LSN 16480 now, acknowledged 4096: 12384 bytes behind the point",
        "wrote     12 KiB in 3 records",
        "3 MiB in ranges at most",
        "substitute  rha-web1 running since ",
        "its guest wrote 70000 bytes; 131072 bytes in /s/root.qcow2",
        "1. To keep the substitute's side (",
        "2. To keep the master's side (",
        "appliance# rha discard web1",
    ):
        assert words in text, words


def test_what_the_appliance_has_of_it_is_told() -> None:
    given = evidence(WRITTEN, received_lsn=8192)
    assert any("4096 bytes of stream are on the appliance" in line for line in splitview.report(answer(given)))


def test_a_hostile_master_does_not_write_to_the_terminal() -> None:
    said = alone(disks=[AloneDisk(name="\x1b[2Jroot", state="unknown", why="\x1b]0;x\x07")])
    assert "\x1b" not in "\n".join(splitview.report(answer(evidence(said))))


def test_a_report_of_a_master_that_has_not_come() -> None:
    text = "\n".join(splitview.report(answer(evidence(master=False))))
    assert "master      has not come since" in text
    assert "not known   it has not come since the substitute was started" in text
