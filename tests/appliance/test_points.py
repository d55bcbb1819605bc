"""Points against a straight replay of the same frames (straight.py): any LSN, while the images move on."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from straight import replay
from stream import DISCARD, FLUSH, WRITE, record

from rha.appliance import apply, history
from rha.appliance.points import Wanted, find
from rha.appliance.pointview import PointView
from rha.appliance.replica import Replica
from rha.errors import StateError
from rha.image import formats
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import End, Gap, Mark


class Told(Master):
    """A master that remembers what it said."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.said: list[bytes] = []
        self.boundaries: list[int] = []

    def _take(self, raw: bytes) -> None:
        self.said.append(raw)
        super()._take(raw)

    def churn(self, draw: random.Random, count: int) -> None:
        """Frames of random records, in an eighth of the disk, so that they overlap."""
        for _ in range(count):
            run = b""
            for _ in range(draw.randrange(1, 12)):
                length = 512 * draw.choice([1, 3, 8, 8, 32])
                sector = draw.randrange((DISK_BYTES // draw.choice([1, 8, 8]) - length) // 512)
                op = draw.choice([WRITE] * 6 + [DISCARD, FLUSH])
                run += record(op, 0, sector, length, draw.randbytes(length) if op == WRITE else b"")
                self.boundaries.append(self.lsn + len(run))
            self.data(FrameType.RECORDS, run)

    def expected(self, lsn: int) -> bytes:
        return bytes(replay(self.said, lsn, [DISK_BYTES])[0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many intervals and checkpoints in little time."""
    monkeypatch.setattr(history, "INTERVAL_BYTES", 300_000)
    monkeypatch.setattr(apply, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(apply, "BATCH_BYTES", 50_000)


@pytest.fixture
def replica(tmp_path: Path, quick: None) -> Iterator[Replica]:
    replica = opened(tmp_path)
    yield replica
    replica.close()


def synced(replica: Replica, draw: random.Random) -> Told:
    """A master whose first sync is done; points begin."""
    master = Told(replica)
    master.greet("a" * 32, 8)
    master.sync(draw.randbytes(1 << 20))
    wait_for(lambda: bool(replica._images.history.intervals))
    return master


def shown(replica: Replica, lsn: int) -> PointView:
    images = replica._images
    place = find(images.history.intervals, replica._journal, Wanted(lsn=lsn), now=0)
    assert place.lsn == lsn
    return PointView(images.history, replica._journal, place, images)


def test_every_record_is_a_point(replica: Replica) -> None:
    draw = random.Random(3)
    master = synced(replica, draw)
    first = master.lsn
    for _ in range(8):
        master.churn(draw, 12)
        master.settle()
    assert len(replica._images.history.intervals) > 3
    for lsn in [first, *draw.sample(master.boundaries, 25), master.lsn]:
        view = shown(replica, lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(lsn), lsn
        view.close()


def test_an_open_point_stays_while_the_images_move_on(replica: Replica) -> None:
    draw = random.Random(4)
    master = synced(replica, draw)
    views: list[tuple[int, PointView]] = []
    for _ in range(10):
        master.churn(draw, 10)
        master.settle()
        lsn = draw.choice(master.boundaries)
        views.append((lsn, shown(replica, lsn)))
    for lsn, view in views:
        assert view.read(0, 0, DISK_BYTES) == master.expected(lsn), lsn
        view.close()
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(master.lsn)


def test_what_does_not_differ_is_not_called_changed(replica: Replica) -> None:
    draw = random.Random(5)
    master = synced(replica, draw)
    before = master.lsn
    run = record(WRITE, 0, 80, 4096, b"x" * 4096) + record(WRITE, 0, 88, 512, b"y" * 512)
    master.data(FrameType.RECORDS, run)
    master.settle()
    view = shown(replica, before)
    assert list(view.changed(0)) == [(80 * 512, 4608)]
    view.close()


def test_status_calls_nothing_zero_that_is_not(replica: Replica) -> None:
    draw = random.Random(6)
    master = synced(replica, draw)
    master.churn(draw, 40)
    master.settle()
    view = shown(replica, draw.choice(master.boundaries))
    content = view.read(0, 0, DISK_BYTES)
    at = zeros = 0
    for length, is_zero in view.status(0, 0, DISK_BYTES):
        assert not is_zero or not any(content[at : at + length])
        at, zeros = at + length, zeros + length * is_zero
    assert at == DISK_BYTES
    assert zeros >= DISK_BYTES - (2 << 20) - len(master.said) * 12 * 65536 or zeros > DISK_BYTES // 4
    view.close()


def test_no_point_within_a_sync_and_all_before_it_stay(replica: Replica) -> None:
    draw = random.Random(7)
    master = synced(replica, draw)
    master.churn(draw, 20)
    good = master.lsn
    master.control(FrameType.GAP, Gap(disk=0, reason="ring-full", count=1))
    master.churn(draw, 5)
    broken = master.lsn
    master.control(FrameType.MARK, Mark(epoch=2, disks=[0], method="marked"))
    master.data(FrameType.RESYNC, draw.randbytes(65536), offset=1 << 20)
    master.churn(draw, 5)
    master.control(FrameType.END, End(epoch=2, disks=[0], lsn=master.lsn))
    master.settle()
    ended = master.lsn
    wait_for(lambda: [replica.tend(), replica._images.guard is None][1])  # merged
    master.churn(draw, 5)
    master.settle()
    for lsn in (good, ended, master.lsn):
        view = shown(replica, lsn)
        expected = frames_until(master, FrameType.GAP) if lsn == good else master.said
        assert view.read(0, 0, DISK_BYTES) == replay(expected, lsn, [DISK_BYTES])[0], lsn
        view.close()
    with pytest.raises(StateError, match="no state of the master"):
        shown(replica, broken)


def frames_until(master: Told, kind: FrameType) -> list[bytes]:
    return master.said[: next(n for n, raw in enumerate(master.said) if raw[5] == kind)]


def test_a_time_within_a_frame_is_a_record(replica: Replica) -> None:
    """Records carry the monotonic clock, frames the real time of their last record."""
    draw = random.Random(8)
    master = synced(replica, draw)
    second = 1_000_000_000
    run = b"".join(timed(n * second, n) for n in range(1, 6))
    begin = master.lsn
    raw = frames.encode(FrameType.RECORDS, run, lsn=begin, time_ns=5_000_000_005 * second) + run
    master._take(raw)
    master.lsn += len(run)
    master.settle()
    images = replica._images
    place = find(images.history.intervals, replica._journal, Wanted(time=5_000_000_003.5), now=6_000_000_000)
    assert (place.lsn, place.time) == (begin + 3 * len(run) // 5, pytest.approx(5_000_000_003, abs=1e-3))


def timed(monotonic_ns: int, fill: int) -> bytes:
    raw = bytearray(record(WRITE, 0, 0, 512, bytes([fill]) * 512))
    raw[24:32] = monotonic_ns.to_bytes(8, "little")
    return bytes(raw)


@pytest.mark.parametrize(("wanted", "words"), [(Wanted(lsn=1), "left the window"), (Wanted(time=9e9), "the future")])
def test_outside_the_window(replica: Replica, wanted: Wanted, words: str) -> None:
    synced(replica, random.Random(9))
    with pytest.raises(StateError, match=words):
        find(replica._images.history.intervals, replica._journal, wanted, now=8e9)


def test_images_of_an_earlier_point_for_a_substitute(replica: Replica, tmp_path: Path) -> None:
    draw = random.Random(10)
    master = synced(replica, draw)
    master.churn(draw, 30)
    master.settle()
    wanted = draw.choice(master.boundaries)
    replica.retire()
    (spec,) = replica.give_up_images(replica.points.find(str(wanted)))
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(spec.path), str(tmp_path / "raw")], check=True)
    assert (tmp_path / "raw").read_bytes() == master.expected(wanted)
    assert formats.check(spec.path).is_sound
    replica.restore_images()
    assert not spec.path.exists()
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(master.lsn)
