"""What the probe captures on real block devices: sizes, operations, partitions, several disks in one order."""

from __future__ import annotations

import fcntl
import os
import struct

import pytest

from proof.lab import MIB, Lab, run, wait_for
from proof.writers import RawWriter
from rha.capture import pins
from rha.capture.device import lookup

pytestmark = pytest.mark.root

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F


def test_all_sizes_discard_and_zeroes(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    writer = RawWriter(disk.path, longest=6 * MIB)
    for i, length in enumerate([512, 1024, 4096, 4608, 65536, 131072 + 512, MIB, MIB + 512, 3 * MIB, 6 * MIB]):
        for misalign in (0, 512, 2048):
            writer.write_at(i * 6 * MIB + misalign, length, misalign)
    writer.close()
    device = os.open(disk.path, os.O_RDWR)
    fcntl.ioctl(device, BLKZEROOUT, struct.pack("<QQ", 7 * MIB, MIB + 4096))
    fcntl.ioctl(device, BLKDISCARD, struct.pack("<QQ", 40 * MIB, 2 * MIB))
    os.fsync(device)
    os.close(device)
    report = engine.report()
    assert report["records"] >= 36, report
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])


def test_partition_and_its_edges(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    run("sgdisk", "-n", "1:2048:67583", "-n", "2:67584:0", disk.path)  # 1: 32 MiB
    run("partprobe", disk.path)
    lab.stack.callback(lambda: run("partx", "-d", disk.path))
    part = f"{disk.path}p1"
    assert lookup(part).start == 2048
    lab.appliance.start()
    engine = lab.engine([part])
    engine.start()
    engine.wait_ordered()
    whole = RawWriter(disk.path)
    before = engine.report()["records"]
    whole.write_at(40 * MIB, 65536, 0)  # behind the partition
    assert engine.report()["records"] == before
    whole.write_at(2 * MIB, 65536, 0)  # inside, through the whole disk
    inside = RawWriter(part)
    inside.write_at(MIB, 8192, 0)
    engine.wait_ordered()
    assert engine.report()["records"] == before + 2
    whole.write_at(33 * MIB - 4096, 8192, 0)  # across its end
    whole.close()
    inside.close()
    engine.wait_ordered()
    assert engine.losses() == {"straddles": 1}
    answer = engine.verify()
    assert answer["equal"], answer
    assert answer["quiet"], answer


def test_two_disks_keep_one_order(lab: Lab) -> None:
    """A log on one disk and data on the other: the image never shows data whose log entry is missing."""
    log, data = lab.disk(16 * MIB), lab.disk(16 * MIB)
    lab.appliance.start()
    engine = lab.engine([log.path, data.path])
    engine.start()
    engine.wait_ordered()
    with RawWriter(log.path, seed=3), RawWriter(data.path, seed=4) as writer:
        while writer.count < 300:
            os.sched_yield()
    assert engine.losses() == {}
    lab.assert_equal(engine, [log, data])


def kernel_objects() -> set[str]:
    """Ids of all BPF programs and maps."""
    lines = [line for kind in ("prog", "map") for line in run("bpftool", kind, "show").splitlines()]
    return {line.split(":")[0] for line in lines if line[:1].isdigit()}


def test_unload_leaves_nothing(lab: Lab) -> None:
    before = kernel_objects()
    lab.appliance.start()
    engine = lab.engine([lab.disk(16 * MIB).path])
    engine.start()
    assert pins.exist(engine.name)
    mine = kernel_objects() - before
    assert len(mine) >= len(pins.MAPS) + len(pins.PROGRAMS)
    engine.unload()
    assert not pins.folder(engine.name).exists()
    wait_for(lambda: not kernel_objects() & mine, 10, "programs or maps are left")  # the kernel frees them by RCU
