"""What a replica knows after a crash, wherever its last checkpoint was, and after a greeting that failed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, Master, hello, opened, wait_for
from stream import WRITE, record

from rha.appliance import checkpoint
from rha.appliance.apply import _after
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.stream import DiskState
from rha.errors import RhaError, StorageError
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import End, Gap, Mark

CONTENT = random.Random(1).randbytes(64 << 10)


def crashes(folder: Path) -> Iterator[Checkpoint]:
    """A crash with the last checkpoint behind each frame of the journal, one after the other."""
    with Journal.open(folder / "web1" / "journal") as journal:
        entries = list(journal.read(journal.first))
    reached = Checkpoint()
    for entry in entries:
        checkpoint.save(folder / "web1" / "checkpoint.json", reached)
        yield reached
        reached = _after(entry, reached)


def lived(folder: Path, last: str) -> tuple[DiskState, ...]:
    """A replica that has seen a first sync and then something else; what it says of its disks in the end."""
    replica = opened(folder)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(CONTENT)
    if last == "gap":
        master.control(FrameType.GAP, Gap(disk=0, reason="ring-full", count=1))
    elif last == "mark":
        master.control(FrameType.MARK, Mark(epoch=2, disks=[0], method="marked"))
    elif last == "generation":
        master.greet("b" * 32, 1 << 20)
    master.settle()
    expected = replica._intake.state.disks
    replica.close()
    return expected


@pytest.mark.parametrize("last", ["end", "gap", "mark", "generation"])
def test_redo_from_any_checkpoint_gives_the_same_state(tmp_path: Path, last: str) -> None:
    expected = lived(tmp_path, last)
    for reached in crashes(tmp_path):
        replica = opened(tmp_path)
        try:
            assert replica._intake.state.disks == expected, reached
            assert replica.wait_applied(timeout=30)
            assert replica._images.applied_state.disks == expected, reached
            assert (replica.why_not_consistent() is None) == (last == "end")
        finally:
            replica.close()


def test_a_new_generation_goes_on_after_a_crash(tmp_path: Path) -> None:
    """The new generation's LSNs are those it began with, not those of frames that were redone before it."""
    lived(tmp_path, "generation")
    *_, _ = crashes(tmp_path)  # the last checkpoint stands before the last frame, the new generation's greeting
    replica = opened(tmp_path)
    try:
        master = Master(replica)
        welcome = master.greet("b" * 32, 1 << 20)
        assert [disk.need for disk in welcome.disks] == ["compare"]
        assert replica.why_not_consistent()
        master.sync(CONTENT[::-1])
        assert replica.why_not_consistent() is None
        assert replica.read_image(0, 0, len(CONTENT)) == CONTENT[::-1]
    finally:
        replica.close()


@pytest.mark.parametrize("size", [0, -512, 513, 1 << 62])
def test_a_greeting_with_an_impossible_disk_leaves_nothing(tmp_path: Path, size: int) -> None:
    replica = opened(tmp_path)
    try:
        wrong = hello("a" * 32, 8, (size,))
        with pytest.raises(RhaError):
            replica.welcome(wrong, frames.control(FrameType.HELLO, wrong, lsn=8), "appliance")
        assert not replica._intake.state.disks
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.sync(CONTENT)
        assert replica.read_image(0, 0, DISK_BYTES) == CONTENT + bytes(DISK_BYTES - len(CONTENT))
    finally:
        replica.close()


def test_images_that_cannot_be_made_are_made_with_the_next_greeting(tmp_path: Path) -> None:
    replica = opened(tmp_path)
    try:
        obstacle = tmp_path / "web1" / "images"
        obstacle.mkdir()
        (obstacle / "d0.qcow2").symlink_to("/nowhere/at/all")
        message = hello("a" * 32, 8)
        with pytest.raises(RhaError):
            replica.welcome(message, frames.control(FrameType.HELLO, message, lsn=8), "appliance")
        (obstacle / "d0.qcow2").unlink()
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.sync(CONTENT)
        assert replica.why_not_consistent() is None
    finally:
        replica.close()
    with Journal.open(tmp_path / "web1" / "journal") as journal:
        assert next(iter(journal.read(journal.first))).header.type is FrameType.HELLO


def test_a_new_generation_while_a_sync_is_not_applied_yet(tmp_path: Path) -> None:
    """The greeting waits for the applier, which notes the sync's end meanwhile."""
    replica = opened(tmp_path)
    try:
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.control(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"))
        master.data(FrameType.RESYNC, CONTENT)
        master.control(FrameType.END, End(epoch=1, disks=[0], lsn=master.lsn))
        with ThreadPoolExecutor() as pool:
            welcome = pool.submit(master.greet, "b" * 32, 1 << 20).result(timeout=30)
        assert [disk.need for disk in welcome.disks] == ["compare"]
        assert replica.point() == replica._images.guard.point
    finally:
        replica.close()


def test_what_stands_behind_sync_data_is_not_journalled(tmp_path: Path) -> None:
    """The checksum that came over the wire then is not that of the journal's frame."""
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.control(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"))
    master.data(FrameType.RESYNC, CONTENT + b"more, 16 bytes..", raw_length=len(CONTENT))
    zeros = frames.zeros_payload(4096)
    master.data(FrameType.RESYNC, zeros + b"8 bytes.", offset=1 << 20, flags=frames.FLAG_ZEROS)
    master.data(FrameType.RECORDS, record(WRITE, 0, 2048, 512, b"x" * 512))
    master.data(FrameType.RESYNC, zeros, offset=1 << 20, flags=frames.FLAG_ZEROS)  # the stream has written a part of it
    master.control(FrameType.END, End(epoch=1, disks=[0], lsn=master.lsn))
    master.settle()
    replica.close()
    with Journal.open(tmp_path / "web1" / "journal") as journal:
        found = [one for one in journal.read(journal.first) if one.header.type is FrameType.RESYNC]
    assert [bytes(one.payload) for one in found] == [CONTENT, zeros, frames.zeros_payload(4096 - 512)]


def test_an_applier_that_failed_is_tried_again_and_named_meanwhile(tmp_path: Path) -> None:
    replica = opened(tmp_path)
    try:
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.sync(CONTENT)
        os.kill(replica._images._files._daemon.pid, signal.SIGKILL)  # the images cannot be written any more
        run = record(WRITE, 0, 0, 512, b"x" * 512)
        master.data(FrameType.RECORDS, run)
        replica.commit()
        wait_for(lambda: replica.report().state == "failed")
        assert "tried again" in replica.report().alarms[0]
        master.data(FrameType.RECORDS, run)  # the master is served all the same
        replica.commit()

        def mended() -> bool:
            replica.tend()
            return replica.report().state == "consistent"

        wait_for(mended)
        assert replica.wait_applied(timeout=30)
        assert replica.read_image(0, 0, 512) == b"x" * 512
        assert replica.report().alarms == []
    finally:
        replica.close()


def test_a_master_that_has_lost_what_comes_next_begins_anew(tmp_path: Path) -> None:
    """Its ring, or its spool, begins above the end of the journal. The floor makes it choose another generation; of
    this greeting nothing is kept."""
    replica = opened(tmp_path)
    try:
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.sync(CONTENT)
        end = replica.journal_end
        welcome = master.greet("a" * 32, 1 << 20)
        assert not welcome.generation_known
        assert welcome.lsn_floor == 1 << 20, "the engine's own condition for a new generation"
        assert replica.journal_end == end
        assert replica.why_not_consistent() is None
        welcome = master.greet("b" * 32, (1 << 20) + 8)
        assert [disk.need for disk in welcome.disks] == ["compare"]
    finally:
        replica.close()


def test_what_cannot_be_opened_is_let_go_of(tmp_path: Path) -> None:
    """The next connection tries again, in the same process: it must not meet the locks of the first attempt."""
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(b"x" * 4096)
    replica.close()
    image = replica.folder / "images" / "d0.qcow2"
    aside = image.rename(tmp_path / "aside")
    image.write_bytes(b"this is no image")
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            opened(tmp_path)
        assert "two appliances" not in str(caught.value)
    aside.rename(image)
    opened(tmp_path).close()
