"""Disks without a request queue, on zram, the one kind that is everywhere: writes are seen to end at their bios."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from proof.lab import MIB, Disk, Lab, run, wait_for
from proof.writers import FileWriter, RawWriter
from rha.capture import pins, probe
from rha.capture.capture import Capture
from rha.capture.device import lookup, why_not

pytestmark = pytest.mark.root

ZRAM = Path("/sys/class/zram-control")


class Zram(Disk):
    """A compressed disk in memory. `file` is the device itself: there is nothing below it."""

    def __init__(self, lab: Lab, size: int) -> None:
        if not ZRAM.exists():
            run("modprobe", "zram")
        number = (ZRAM / "hot_add").read_text().strip()
        lab.stack.callback(wait_for, lambda: _is_removed(number), 20, f"zram{number} is held by somebody")
        self.sys, self.path, self.bytes = Path(f"/sys/block/zram{number}"), f"/dev/zram{number}", size
        self.file = Path(self.path)
        (self.sys / "disksize").write_text(str(size))


def _is_removed(number: str) -> bool:
    """Busy while anybody has it open, be it only to look what it is."""
    try:
        (ZRAM / "hot_remove").write_text(number)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@pytest.fixture
def zram(lab: Lab) -> Zram:
    return Zram(lab, 64 * MIB)


@pytest.fixture
def capture(zram: Zram) -> Iterator[Capture]:
    """The probe over the disk, without an engine."""
    name = f"bio-{os.getpid()}"
    probe.load(probe.Specification(scenario=name, devices=[zram.path], ring_bytes=16 * MIB))
    try:
        running = Capture(name, [lookup(zram.path)])
        try:
            yield running
        finally:
            running.close()
    finally:
        pins.remove(name)


def test_first_sync_under_load_then_equal(lab: Lab, zram: Zram) -> None:
    lab.appliance.start()
    engine = lab.engine([zram.path])
    with RawWriter(zram.path, unit=4096) as writer:
        engine.start()
        engine.wait_ordered()
        before = writer.count
        wait_for(lambda: writer.count > before + 200, 30)
    assert engine.losses() == {}
    lab.assert_equal(engine, [zram])


def test_a_later_sync_waits_for_no_window(lab: Lab, zram: Zram) -> None:
    """The probe has kept every write for long, so it knows when those from before the mark have ended."""
    lab.appliance.start()
    engine = lab.engine([zram.path])
    engine.start()
    engine.wait_ordered()
    lab.appliance.stop()
    wait_for(lambda: not engine.report()["connected"], 30)
    shutil.rmtree(lab.appliance.image(engine.name, "d0").parent.parent)
    with RawWriter(zram.path, unit=4096) as writer:
        lab.appliance.start()
        wait_for(lambda: engine.report()["connected"] and engine.state() == "write-order", 60)
        before = writer.count
        wait_for(lambda: writer.count > before + 200, 30)
    done = engine.report()["disks"][0]["last_sync"]
    assert (done["method"], done["waited_seconds"] < 0.1) == ("full", True), done
    lab.assert_equal(engine, [zram])


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_file_system(lab: Lab, kind: str) -> None:
    zram = Zram(lab, 384 * MIB)
    folder = lab.mount(zram.path, kind)
    lab.appliance.start()
    engine = lab.engine([zram.path])
    with FileWriter(folder) as writer:
        engine.start()
        engine.wait_ordered()
        before = writer.count
        wait_for(lambda: writer.count > before + 100, 60)
    run("umount", folder)
    assert engine.losses() == {}
    lab.assert_equal(engine, [zram])


def test_every_write_is_seen_to_end(zram: Zram, capture: Capture) -> None:
    with RawWriter(zram.path, longest=4 * MIB, pause=0.0, unit=4096) as writer:
        wait_for(lambda: writer.count > 300, 30)
        assert capture.drain(0).endswith("every write was seen to end")
    assert int(capture._of_disk(0)["departed"].sum()) >= writer.count
    assert capture.in_flight(0) == 0


def test_completed_writes_are_marked_while_tracked(zram: Zram, capture: Capture) -> None:
    capture.enter_data_mode(0)
    writer = RawWriter(zram.path, longest=MIB)
    writer.write_at(8 * MIB, 4096, 0)
    assert capture.dirty_bytes(0) == 0, "a captured write needs no mark"
    capture.start_tracking([0])
    writer.write_at(16 * MIB, 4096, 0)
    writer.write_at(24 * MIB, 300 << 10, 0)
    capture.stop_tracking()
    writer.write_at(32 * MIB, 4096, 0)
    writer.close()
    capture.collect_dirty(0)
    assert capture.next_pending(0, 0, 1000) == (16 * MIB >> 16, 1)
    assert capture.next_pending(0, 257, 1000) == (24 * MIB >> 16, 5)
    assert capture.next_pending(0, 400, 1000) is None


def fill(zram: Zram, writer: RawWriter) -> int:
    """Writes until zram is full; its memory limit is far below its size. Returns the 64 KiB block that failed."""
    (zram.sys / "mem_limit").write_text("1M")
    for block in range(1, 64):
        try:
            writer.write_at(block << 16, 65536, 0)
        except OSError:
            return block
    raise AssertionError("nothing failed: the test proves nothing")


def test_a_failed_write_marks_its_range_and_ends_the_order(zram: Zram, capture: Capture) -> None:
    writer = RawWriter(zram.path)
    capture.enter_data_mode(0)
    writer.write_at(0, 4096, 0)
    assert capture.losses(0) == {}
    failed = fill(zram, writer)
    writer.close()
    assert capture.losses(0) == {"write-error": 1}
    assert [gap.disk for gap in capture.gaps()] == [0]
    capture.collect_dirty(0)
    assert capture.next_pending(0, 0, 1000) == (failed, 1)


def test_engine_repairs_after_a_failed_write(lab: Lab, zram: Zram) -> None:
    lab.appliance.start()
    engine = lab.engine([zram.path])
    engine.start()
    engine.wait_ordered()
    writer = RawWriter(zram.path)
    fill(zram, writer)
    (zram.sys / "mem_limit").write_text("0")
    writer.close()
    engine.wait_ordered()
    assert engine.losses() == {"write-error": 1}
    lab.assert_equal(engine, [zram])


def test_it_is_not_refused(zram: Zram) -> None:
    assert why_not(zram.path) is None
