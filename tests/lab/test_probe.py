"""What the probe captures, byte by byte: every kind of operation, partitions, several disks in one order."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path

import pytest
from lab import MIB, Engine, Lab, run, wait_for
from writers import RawWriter

from rha.capture.selftest import DISCARD, FLUSH, WRITE, WRITE_ZEROES, parse
from rha.journal.segment import Journal
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F  # include/uapi/linux/fs.h
LONGEST = 5 * MIB


def ioctl_range(device: str, request: int, offset: int, length: int) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        fcntl.ioctl(fd, request, struct.pack("<QQ", offset, length))
    finally:
        os.close(fd)


def flush(device: str) -> None:
    fd = os.open(device, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def records(store: Path, name: str) -> list[tuple[int, int, int, bytes]]:
    """All journalled records in order, as (op, first byte, length, payload)."""
    with Journal.open(store / name / "journal") as journal:
        return [
            record
            for entry in journal.read(journal.first)
            if entry.header.type is FrameType.RECORDS
            for record in parse(entry.payload[: entry.header.raw_length])
        ]


def start(lab: Lab, devices: list[str], **options: str) -> Engine:
    lab.appliance.start()
    engine = lab.engine(devices, **options)
    engine.start()
    engine.wait_ordered()
    return engine


def test_every_kind_of_operation(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    engine = start(lab, [disk.path])
    writer = RawWriter(disk.path, longest=LONGEST)
    sizes = [512, 1024, 3584, 4096, 4608, 64 << 10, MIB - 512, MIB, MIB + 512, 3 * MIB + 1536, LONGEST]
    for number, length in enumerate(sizes):
        for misalign in (0, 512, 2048, 3584):
            writer.write_at((number * 5 * MIB + misalign) % (disk.bytes - length) // 512 * 512, length, misalign)
    writer.close()
    ioctl_range(disk.path, BLKDISCARD, 6 * MIB, 2 * MIB)
    ioctl_range(disk.path, BLKZEROOUT, 11 * MIB + 4096, MIB)
    flush(disk.path)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    seen = records(lab.appliance.store, engine.name)
    assert (DISCARD, 6 * MIB, 2 * MIB) in [record[:3] for record in seen]
    assert any(op == WRITE_ZEROES and first == 11 * MIB + 4096 for op, first, _, _ in seen)
    assert any(op == FLUSH for op, _, _, _ in seen)
    assert sum(len(payload) for op, _, _, payload in seen if op == WRITE) == 4 * sum(sizes)


def test_buffered_writes_and_a_mounted_file_system_with_discard(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = start(lab, [disk.path])
    for i in range(8):
        (folder / f"file-{i}").write_bytes(os.urandom(MIB + i))
    os.sync()
    for i in range(0, 8, 2):
        (folder / f"file-{i}").unlink()
    run("fstrim", folder)
    run("umount", folder)
    lab.assert_equal(engine, [disk])
    assert any(op == DISCARD for op, _, _, _ in records(lab.appliance.store, engine.name))


def partitioned(lab: Lab) -> tuple[str, str, Path]:
    """A disk of 64 MiB with a partition of 32 MiB at 8 MiB: disk, partition, file."""
    disk = lab.disk(64 * MIB, "--partscan")
    subprocess.run(
        ["sfdisk", "--quiet", disk.path], input="start=16384, size=65536\n", text=True, check=True, capture_output=True
    )
    run("partprobe", disk.path)
    part = f"{disk.path}p1"
    wait_for(Path(part).exists, 10, f"{part} does not appear")
    return disk.path, part, disk.file


def test_partition(lab: Lab) -> None:
    """Writes beside it are not captured; one across its edge marks it, and a resync makes it equal again."""
    whole, part, file = partitioned(lab)
    engine = start(lab, [part])
    writer = RawWriter(whole, longest=MIB)
    before = engine.report()["records"]
    writer.write_at(0x700000, 4096, 0)
    writer.write_at(48 * MIB, MIB, 0)
    assert engine.report()["records"] == before, "writes outside the partition were captured"
    writer.write_at(20 * MIB, MIB, 512)
    assert engine.report()["records"] == before + 1
    writer.write_at(40 * MIB - 4096, 8192, 0)
    wait_for(lambda: engine.losses() == {"straddles": 1}, 10, engine.report)
    writer.close()
    engine.wait_ordered()
    assert engine.verify()["equal"]
    lab.appliance.wait_applied(engine.name)
    engine.stop()
    lab.appliance.stop()
    copy = lab.folder / "part.raw"
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(engine.name, "d0"), copy)
    with file.open("rb") as handle:
        handle.seek(8 * MIB)
        assert handle.read(32 * MIB) == copy.read_bytes()


def test_two_disks_one_order(lab: Lab) -> None:
    """Writes that wait for each other stand in the stream in just that order, whichever disk they go to."""
    disks = [lab.disk(32 * MIB), lab.disk(48 * MIB)]
    engine = start(lab, [disk.path for disk in disks])
    writers = [RawWriter(disk.path) for disk in disks]
    order = []
    for i in range(200):
        offset = i * 8192
        writers[i * 7 % 3 % 2].write_at(offset, 4096, 0)
        order.append(offset)
    for writer in writers:
        writer.close()
    lab.assert_equal(engine, disks)
    assert [first for op, first, _, _ in records(lab.appliance.store, engine.name) if op == WRITE] == order
