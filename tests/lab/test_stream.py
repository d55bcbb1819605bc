"""What stands in the journal: every operation as it was made, and all disks in one order."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from proof.lab import MIB, Engine, Lab, run
from proof.writers import RawWriter
from rha.capture.selftest import DISCARD, FLUSH, WRITE, WRITE_ZEROES, parse
from rha.journal.segment import Journal
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F  # include/uapi/linux/fs.h

Record = tuple[int, int, int, bytes]


def ioctl_range(device: str, request: int, offset: int, length: int) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        fcntl.ioctl(fd, request, struct.pack("<QQ", offset, length))
        os.fsync(fd)
    finally:
        os.close(fd)


def records(store: Path, name: str) -> list[Record]:
    """All journalled records in order, as (op, first byte, length, payload)."""
    with Journal.open(store / name / "journal") as journal:
        return [
            record
            for entry in journal.read(journal.first)
            if entry.header.type is FrameType.RECORDS
            for record in parse(entry.payload[: entry.header.raw_length])
        ]


def started(lab: Lab, devices: list[str]) -> Engine:
    lab.appliance.start()
    engine = lab.engine(devices)
    engine.start()
    engine.wait_ordered()
    return engine


def test_operations_stand_as_they_were_made(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    engine = started(lab, [disk.path])
    writer = RawWriter(disk.path, longest=5 * MIB)
    sizes = [512, 4608, 64 << 10, MIB - 512, MIB + 512, 3 * MIB + 1536, 5 * MIB]
    for number, length in enumerate(sizes):
        writer.write_at(number * 6 * MIB, length, 512 * (number % 8))
    writer.close()
    ioctl_range(disk.path, BLKDISCARD, 50 * MIB, 2 * MIB)
    ioctl_range(disk.path, BLKZEROOUT, 54 * MIB + 4096, MIB)
    lab.assert_equal(engine, [disk])
    seen = records(lab.appliance.store, engine.name)
    assert (DISCARD, 50 * MIB, 2 * MIB) in [record[:3] for record in seen]
    assert any(op == FLUSH for op, *_ in seen)
    zeroed = [record[:3] for record in seen if record[1] >= 54 * MIB]  # by the device, or by the kernel when it cannot
    assert (WRITE_ZEROES, 54 * MIB + 4096, MIB) in zeroed
    written = [(first, len(payload)) for op, first, _, payload in seen if op == WRITE and first < 50 * MIB]
    for number, length in enumerate(sizes):
        begin = number * 6 * MIB
        mine = [(first, count) for first, count in written if begin <= first < begin + 6 * MIB]
        assert sum(count for _, count in mine) == length
        assert mine == sorted(mine), "the parts of one write stand in order"


def test_fstrim_of_a_mounted_file_system(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = started(lab, [disk.path])
    for i in range(8):
        (folder / f"file-{i}").write_bytes(os.urandom(MIB + i))
    os.sync()
    for i in range(0, 8, 2):
        (folder / f"file-{i}").unlink()
    run("fstrim", folder)
    run("umount", folder)
    lab.assert_equal(engine, [disk])
    assert any(op == DISCARD for op, *_ in records(lab.appliance.store, engine.name))


def test_two_disks_stand_in_one_order(lab: Lab) -> None:
    """Writes that wait for each other stand in just that order, whichever disk they go to."""
    disks = [lab.disk(32 * MIB), lab.disk(48 * MIB)]
    engine = started(lab, [disk.path for disk in disks])
    writers = [RawWriter(disk.path) for disk in disks]
    order = [number * 8192 for number in range(300)]
    for number, offset in enumerate(order):
        writers[number * 7 % 3 % 2].write_at(offset, 4096, 0)
    for writer in writers:
        writer.close()
    lab.assert_equal(engine, disks)
    assert [first for op, first, *_ in records(lab.appliance.store, engine.name) if op == WRITE] == order
