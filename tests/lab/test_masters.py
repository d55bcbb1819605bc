"""Several masters on one appliance: each sees its own images only, and what one sends amiss hurts nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proof.lab import MIB, Lab, run
from proof.stranger import DISK_BYTES, FIRST_LSN, Stranger, hello_of, stranger
from proof.writers import RawWriter
from rha.appliance import catalog
from rha.errors import NetworkError
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import DiskHello, End, Gap, Hello, Mark

pytestmark = pytest.mark.root

RECORD = b"\x18\0\0\0\0\0\0\0"  # ring header: 24 bytes of record, no payload


def damaged(one: Stranger) -> None:
    raw = bytearray(frames.encode(FrameType.RECORDS, RECORD + bytes(24), lsn=FIRST_LSN) + RECORD + bytes(24))
    raw[-1] ^= 1
    one.raw(bytes(raw))


def damaged_header(one: Stranger) -> None:
    raw = bytearray(frames.encode(FrameType.RECORDS, b"", lsn=FIRST_LSN))
    raw[24] ^= 1
    one.raw(bytes(raw))


def no_frame(one: Stranger) -> None:
    one.raw(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + bytes(100))


def hole(one: Stranger) -> None:
    one.data(FrameType.RECORDS, b"", lsn=FIRST_LSN + 8)


def step_back(one: Stranger) -> None:
    one.data(FrameType.RECORDS, b"", lsn=FIRST_LSN - 8)


def sync_data_outside_a_sync(one: Stranger) -> None:
    one.data(FrameType.RESYNC, bytes(4096), lsn=FIRST_LSN)


def marked(one: Stranger) -> None:
    one.send(FrameType.MARK, Mark(epoch=9, disks=[0], method="marked"), lsn=FIRST_LSN)


def sync_data_beyond_the_disk(one: Stranger) -> None:
    marked(one)
    one.data(FrameType.RESYNC, bytes(4096), lsn=FIRST_LSN, offset=DISK_BYTES - 512)


def zeros_without_a_length(one: Stranger) -> None:
    marked(one)
    one.data(FrameType.RESYNC, b"", lsn=FIRST_LSN, flags=frames.FLAG_ZEROS)


def zeros_around_the_world(one: Stranger) -> None:
    marked(one)
    length = (1 << 64) - 512
    one.data(FrameType.RESYNC, frames.zeros_payload(length), lsn=FIRST_LSN, offset=512, flags=frames.FLAG_ZEROS)


def record(sector: int, length: int, disk: int, op: int) -> bytes:
    body = sector.to_bytes(8, "little") + length.to_bytes(4, "little") + disk.to_bytes(2, "little") + bytes([op, 0])
    return RECORD + body + bytes(8)


def record_beyond_the_disk(one: Stranger) -> None:
    one.data(FrameType.RECORDS, record(DISK_BYTES // 512, 512, 0, 2), lsn=FIRST_LSN)


def record_around_the_world(one: Stranger) -> None:
    one.data(FrameType.RECORDS, record((1 << 64) - 1, 1024, 0, 2), lsn=FIRST_LSN)


def record_of_another_disk(one: Stranger) -> None:
    one.data(FrameType.RECORDS, record(0, 512, 1, 2), lsn=FIRST_LSN)


def record_of_no_operation(one: Stranger) -> None:
    one.data(FrameType.RECORDS, record(0, 512, 0, 77), lsn=FIRST_LSN)


def record_cut_short(one: Stranger) -> None:
    one.data(FrameType.RECORDS, record(0, 4096, 0, 1), lsn=FIRST_LSN)


def record_longer_than_its_frame(one: Stranger) -> None:
    one.data(FrameType.RECORDS, b"\xf8\xff\xff\x3f" + bytes(28), lsn=FIRST_LSN)


def busy_record(one: Stranger) -> None:
    one.data(FrameType.RECORDS, b"\x18\0\0\x80" + bytes(28), lsn=FIRST_LSN)


def mark_of_no_disk(one: Stranger) -> None:
    one.send(FrameType.MARK, Mark(epoch=9, disks=[3], method="full"), lsn=FIRST_LSN)


def gap_of_a_negative_disk(one: Stranger) -> None:
    one.send(FrameType.GAP, Gap(disk=-1, reason="x", count=1), lsn=FIRST_LSN)


def digests_beyond_the_disk(one: Stranger) -> None:
    one.data(FrameType.HASHES, bytes(32), lsn=FIRST_LSN, offset=DISK_BYTES)


def digests_of_no_disk(one: Stranger) -> None:
    one.data(FrameType.HASHES, bytes(16), lsn=FIRST_LSN, disk=7)


def json_of_another_kind(one: Stranger) -> None:
    one.send(FrameType.MARK, {"epoch": "many"}, lsn=FIRST_LSN)


def second_hello(one: Stranger) -> None:
    one.send(FrameType.HELLO, {"protocol": 1}, lsn=FIRST_LSN)


def answer_of_an_appliance(one: Stranger) -> None:
    one.send(FrameType.ACK, {"durable_lsn": 1}, lsn=FIRST_LSN)


AMISS = (
    damaged,
    damaged_header,
    no_frame,
    hole,
    step_back,
    sync_data_outside_a_sync,
    sync_data_beyond_the_disk,
    zeros_without_a_length,
    zeros_around_the_world,
    record_beyond_the_disk,
    record_around_the_world,
    record_of_another_disk,
    record_of_no_operation,
    record_cut_short,
    record_longer_than_its_frame,
    busy_record,
    mark_of_no_disk,
    gap_of_a_negative_disk,
    digests_beyond_the_disk,
    digests_of_no_disk,
    json_of_another_kind,
    second_hello,
    answer_of_an_appliance,
)


def synced_stranger(lab: Lab, name: str) -> None:
    with stranger(lab, name) as one:
        assert [disk.need for disk in one.welcome().disks] == ["full"]
        one.send(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"), lsn=FIRST_LSN)
        one.data(FrameType.RESYNC, b"stranger" * 512, lsn=FIRST_LSN)
        one.send(FrameType.END, End(epoch=1, disks=[0], lsn=FIRST_LSN), lsn=FIRST_LSN, seq=3)
        while frames.decode_control(*one.answer(FrameType.ACK), dict)["seq"] < 3:
            pass


def said_why(one: Stranger) -> bool:
    """True when the connection ends with a reason, not just so."""
    try:
        return bool(one.refusal().error)
    except NetworkError:
        return False


def test_garbage_is_refused_and_hurts_nobody(lab: Lab) -> None:
    disk = lab.disk(32 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], name="good")
    engine.start()
    engine.wait_ordered()
    synced_stranger(lab, "bad")
    with RawWriter(disk.path, pause=0.01):
        for amiss in AMISS:
            with stranger(lab, "bad") as one:
                welcome = one.welcome()
                assert welcome.durable_lsn == FIRST_LSN, amiss
                amiss(one)
                assert said_why(one), f"{amiss.__name__}: {lab.appliance.log()[-2000:]}"
        assert engine.state() == "write-order", engine.report()
    assert engine.losses() == {}
    assert "Traceback" not in lab.appliance.log(), lab.appliance.log()
    lab.assert_equal(engine, [disk])
    assert content_of(lab, "bad") == b"stranger" * 512
    assert_sound(lab.appliance.store / "bad")


def content_of(lab: Lab, name: str) -> bytes:
    copy = lab.folder / "copy.raw"
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(name, "d0"), copy)
    return copy.read_bytes()[:4096]


def assert_sound(folder: Path) -> None:
    """The journal reads to its end, and holds nothing of what was refused."""
    with Journal.open(folder / "journal") as journal:
        kinds = [entry.header.type for entry in journal.read(journal.first)]
    assert FrameType.RECORDS not in kinds
    assert kinds.count(FrameType.RESYNC) == 1
    assert catalog.load_stream(folder).lsn == FIRST_LSN


@pytest.mark.parametrize("name", ["good", "../good", ".", "", "GOOD", "good\0"])
def test_a_certificate_opens_its_own_scenario_only(lab: Lab, name: str) -> None:
    lab.appliance.start()
    hello = hello_of(lab, "bad")
    hello.scenario["name"] = name
    before = sorted(lab.appliance.store.iterdir())
    with stranger(lab, "bad", hello) as one:
        assert "is not for scenario" in one.refusal().error
    assert sorted(lab.appliance.store.iterdir()) == before


GREETINGS: dict[str, Callable[[Hello], object]] = {
    "protocol": lambda hello: setattr(hello, "protocol", 99),
    "negative size": lambda hello: setattr(hello.disks[0], "bytes", -512),
    "odd size": lambda hello: setattr(hello.disks[0], "bytes", 1000),
    "size of no image": lambda hello: setattr(hello.disks[0], "bytes", 1 << 62),
    "more disks than the scenario": lambda hello: hello.disks.append(DiskHello(name="d1", bytes=512)),
    "disk of another name": lambda hello: setattr(hello.disks[0], "name", "../../x"),
    "scenario that is none": lambda hello: hello.scenario.update(disk="all of them"),
    "disk that leaves the folder": lambda hello: (
        hello.scenario["disk"][0].update(name="../../x"),
        setattr(hello.disks[0], "name", "../../x"),
    ),
}


def test_greetings_that_cannot_be(lab: Lab) -> None:
    """Each is refused, and the right one is taken afterwards."""
    lab.appliance.start()
    for what, spoil in GREETINGS.items():
        hello = hello_of(lab, "bad")
        spoil(hello)
        with stranger(lab, "bad", hello) as one:
            assert one.refusal().error, what
    synced_stranger(lab, "bad")
    assert "Traceback" not in lab.appliance.log(), lab.appliance.log()
