"""What the probe captures on real block devices: sizes, operations, partitions, several disks in one order."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from pathlib import Path

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


def kernel_objects(folder: Path) -> set[tuple[str, int]]:
    """Every program and map that hangs on the pins in `folder`, pinned or not, as (kind, id)."""
    found = set()
    for name in pins.PROGRAMS:
        one = json.loads(run("bpftool", "-j", "prog", "show", "pinned", folder / name))
        found |= {("prog", one["id"])} | {("map", number) for number in one["map_ids"]}
    for entry in json.loads(run("bpftool", "-j", "map", "dump", "pinned", folder / "continuation")):
        value = bytes(int(byte, 16) for byte in entry["value"])
        found.add(("prog", int.from_bytes(value, "little")))
    return found


def is_left(kind: str, number: int) -> bool:
    """True while the kernel knows the object. Numbers count up, so none is another's soon."""
    return (
        subprocess.run(["bpftool", kind, "show", "id", str(number)], capture_output=True, check=False).returncode == 0
    )


def test_unload_leaves_nothing(lab: Lab) -> None:
    lab.appliance.start()
    engine = lab.engine([lab.disk(16 * MIB).path])
    engine.start()
    mine = kernel_objects(pins.folder(engine.name))
    assert len(mine) >= len(pins.MAPS) + len(pins.PROGRAMS) + 2  # two of the continuations are not pinned
    assert all(is_left(*one) for one in mine)
    engine.unload()
    assert not pins.folder(engine.name).exists()
    wait_for(lambda: not any(is_left(*one) for one in mine), 20, "programs or maps are left")  # freed by RCU
