"""A sync by comparison sends about what has changed, and the image is the disk again."""

from __future__ import annotations

import os
import random

import pytest

from proof.lab import MIB, Disk, Engine, Lab, wait_for
from proof.writers import RawWriter

pytestmark = pytest.mark.root

PAGE = 4096


def changed_behind(disk: Disk, places: list[int], length: int) -> None:
    """While no probe is there."""
    with open(disk.path, "r+b", buffering=0) as node:
        for place in places:
            os.pwrite(node.fileno(), os.urandom(length), place)
        os.fsync(node.fileno())


def compared(lab: Lab, disk: Disk, places: list[int], length: int) -> tuple[Engine, dict[str, int]]:
    """A synced disk, changed while its probe was out of the kernel, and what the comparison then did."""
    with open(disk.path, "wb", buffering=0) as node:
        for _ in range(disk.bytes // MIB):
            node.write(os.urandom(MIB))
        os.fsync(node.fileno())
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    engine.unload()
    changed_behind(disk, places, length)
    engine.start()
    with RawWriter(disk.path, pause=0.05):
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    last = engine.report()["disks"][0]["last_sync"]
    assert last["method"] == "compare"
    return engine, last


def test_scattered_pages_travel_as_pages(lab: Lab) -> None:
    disk, draw = lab.disk(96 * MIB), random.Random(3)
    pages = draw.sample(range(disk.bytes // PAGE), disk.bytes // PAGE // 100)
    engine, last = compared(lab, disk, [page * PAGE for page in pages], PAGE)
    blocks = len({page * PAGE // 65536 for page in pages}) * 65536
    assert len(pages) * PAGE * 0.9 < last["sent_bytes"] < blocks / 2, (last, blocks)
    lab.assert_equal(engine, [disk])


def test_a_stretch_that_changed_travels_whole(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    engine, last = compared(lab, disk, [20 * MIB + at * MIB for at in range(16)], MIB)
    assert 15 * MIB < last["sent_bytes"] < 24 * MIB, last
    lab.assert_equal(engine, [disk])
