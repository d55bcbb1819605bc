"""What an appliance may find in its store, and who else may be there: each is said with cause and hint, nothing is
changed by it, and the other scenarios go on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from proof.lab import MIB, Lab, wait_for
from proof.stranger import DISK_BYTES, FIRST_LSN, hello_of, records, stranger
from proof.weather import Clock
from rha.control import local
from rha.errors import Exit
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.segment import Journal
from rha.wire.frames import FrameType
from rha.wire.messages import DiskHello, Hello, Refuse

pytestmark = pytest.mark.root


def synced(lab: Lab, name: str, count: int = 4) -> int:
    """A scenario with some records, all applied. The LSN behind them."""
    with stranger(lab, name) as one:
        lsn = one.welcome().durable_lsn or FIRST_LSN
        if lsn == FIRST_LSN:
            one.first_sync()
        run = records(count, 4096, DISK_BYTES, 1)
        one.data(FrameType.RECORDS, run, lsn=lsn, seq=9)
        while json.loads(one.answer(FrameType.ACK)[1].rstrip(b"\0"))["applied_lsn"] < lsn + len(run):
            one.send(FrameType.HEARTBEAT, {"time": 1.0, "captured_lsn": lsn})
    wait_for(lambda: not lab.appliance.report(name)["connected"], 30)
    return lsn + len(run)


def refused(lab: Lab, name: str, hello: Hello | None = None) -> Refuse:
    with stranger(lab, name, hello) as one:
        refusal = one.refusal()
    assert refusal.cause
    assert refusal.hint
    return refusal


def welcomed_at(lab: Lab, name: str) -> int:
    with stranger(lab, name) as one:
        return one.welcome().durable_lsn


def test_two_appliances_on_one_store(lab: Lab, tmp_path: Path) -> None:
    lab.appliance.start()
    end = synced(lab, "web")
    config = tmp_path / "second.toml"
    text = (lab.folder / "appliance.toml").read_text().replace(str(lab.folder / "run"), str(tmp_path / "run"))
    config.write_text(text)
    second = type(lab.appliance)(tmp_path, config)
    second.launch()
    assert second.process is not None
    assert second.process.wait(60) == Exit.STORAGE
    assert "error: two appliances on one store\ncause: " in second.log()
    assert "\nhint: fuser -v " in second.log()
    assert welcomed_at(lab, "web") == end, "the first one has not noticed"


def test_an_image_that_somebody_else_has_open(lab: Lab) -> None:
    lab.appliance.start()
    end, other = synced(lab, "web"), synced(lab, "mail")
    lab.appliance.stop()
    spec = ImageSpec("d0", lab.appliance.image("web", "d0"), "qcow2")
    with StorageDaemon([spec], lab.folder / "elsewhere"):
        lab.appliance.start()
        assert lab.appliance.report("web")["state"] == "failed"
        assert "an image is in use" in lab.appliance.report("web")["why"]
        assert "an image is in use" in refused(lab, "web").error
        assert welcomed_at(lab, "mail") == other
    assert welcomed_at(lab, "web") == end, "free again, it is opened with the next greeting"


def key_file(path: Path) -> Path:
    path.write_bytes(random.Random(path.name).randbytes(32))
    path.chmod(0o600)
    return path


def test_the_key_of_a_journal_is_missing(lab: Lab) -> None:
    config = lab.folder / "appliance.toml"
    plain = config.read_text()
    right, wrong = key_file(lab.folder / "right.key"), key_file(lab.folder / "wrong.key")
    config.write_text(f'{plain}journal_key = "{right}"\n')
    lab.appliance.start()
    end = synced(lab, "web")
    lab.appliance.stop()
    for words in (plain, f'{plain}journal_key = "{wrong}"\n'):
        config.write_text(words)
        lab.appliance.start()
        assert "the key of an encrypted file is missing" in lab.appliance.report("web")["why"]
        assert "name its file as journal_key" in refused(lab, "web").hint
        lab.appliance.stop()
    right.rename(lab.folder / "away")
    config.write_text(f'{plain}journal_key = "{right}"\n')
    lab.appliance.launch()
    assert lab.appliance.process is not None
    assert lab.appliance.process.wait(60) == Exit.CONFIG, "a key that is named and is not there"
    lab.appliance.process = None
    assert f"key {right} cannot be read" in lab.appliance.log()
    (lab.folder / "away").rename(right)
    lab.appliance.start()
    assert welcomed_at(lab, "web") == end


DISKS: dict[str, Callable[[Hello], Any]] = {
    "smaller": lambda hello: setattr(hello.disks[0], "bytes", DISK_BYTES - 512),
    "another name": lambda hello: (
        hello.scenario["disk"][0].update(name="root"),
        setattr(hello.disks[0], "name", "root"),
    ),
    "one more": lambda hello: (
        hello.scenario["disk"].append({"name": "d1", "device": "/dev/null1"}),
        hello.disks.append(DiskHello(name="d1", bytes=MIB)),
    ),
}


def test_disks_that_are_not_those_of_the_images(lab: Lab) -> None:
    lab.appliance.start()
    end = synced(lab, "web")
    for what, spoil in DISKS.items():
        hello = hello_of(lab, "web")
        spoil(hello)
        refusal = refused(lab, "web", hello)
        assert "are not those of its images" in refusal.error, what
        assert "aside on the appliance" in refusal.hint
    assert welcomed_at(lab, "web") == end
    lab.appliance.stop()
    with Journal.open(lab.appliance.store / "web/journal") as journal:
        assert [entry.header.type for entry in journal.read(journal.first)].count(FrameType.HELLO) == 1


SPOILT: dict[str, Callable[[Path], object]] = {
    "scenario.json of another version": lambda folder: (folder / "scenario.json").write_text('{"name": "web"}'),
    "stream.json cut off": lambda folder: (folder / "stream.json").write_text('{"generation": '),
    "checkpoint.json nested deep": lambda folder: (folder / "checkpoint.json").write_text('{"x": ' + "[" * 5000),
    "bookmarks.json no text": lambda folder: (folder / "bookmarks.json").write_bytes(b"\xff\xfe"),
    "unsent.json of no disk": lambda folder: (folder / "unsent.json").write_text('{"ranges": {"0": [[-1, 5]]}}'),
    "journal gone": lambda folder: next((folder / "journal").glob("*.journal")).unlink(),
    "image gone": lambda folder: (folder / "images/d0.qcow2").unlink(),
}


def test_one_damaged_scenario_stops_no_other(lab: Lab) -> None:
    lab.appliance.start()
    end = synced(lab, "mail")
    for number in range(len(SPOILT)):
        synced(lab, f"web{number}")
    lab.appliance.stop()
    for number, spoil in enumerate(SPOILT.values()):
        spoil(lab.appliance.store / f"web{number}")
    lab.appliance.start()
    for number, what in enumerate(SPOILT):
        report = lab.appliance.report(f"web{number}")
        assert report["health"] == "alarm", (what, report)
        refused(lab, f"web{number}")
    assert welcomed_at(lab, "mail") == end
    assert "Traceback" not in lab.appliance.log(), lab.appliance.log()


def test_a_clock_that_goes_back(lab: Lab) -> None:
    """By twenty minutes, while it runs and over a restart: no point is lost by it, and none is given out as another."""
    clock = Clock(lab.folder, 1)
    clock.governs(lab.appliance)
    lab.appliance.start()
    with ExitStack() as stack:
        end = synced(lab, "web")
        wait_for(lambda: lab.appliance.report("web")["window"], 30)
        clock.set(-1200)
        mark = local.call(lab.appliance.socket, "bookmark", scenario="web", name="before", at="now")
        assert mark["lsn"] == end
        later = synced(lab, "web")
        lab.appliance.stop()
        clock.set(-2400)
        lab.appliance.start()
        stack.callback(lab.appliance.stop)
        points = local.call(lab.appliance.socket, "points", scenario="web")
        assert [one["name"] for one in points["bookmarks"]] == ["before"]
        assert (points["newest_lsn"], points["lost_why"], points["cut_why"]) == (later, "", "")
        opened = local.call(lab.appliance.socket, "open_point", scenario="web", at="before", timeout=60)
        assert opened["lsn"] == end
        local.call(lab.appliance.socket, "close_point", scenario="web", name=opened["name"])
        assert lab.appliance.report("web")["state"] == "consistent"
