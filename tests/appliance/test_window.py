"""How long points are kept, what happens when there is no room, and what damaged undo does."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from stream import WRITE, record
from test_points import quick, replica, shown, synced

from rha.appliance import undo, undowriter
from rha.appliance.spans import Change, spans
from rha.appliance.window import Limits, Usage, cut
from rha.wire.frames import FrameType

__all__ = ["quick", "replica"]
GIB = 1 << 30
LIMITS = Limits(3600, 10 * GIB, GIB)


@pytest.mark.parametrize(
    ("usage", "count", "why"),
    [
        (Usage([3000, 2000], [GIB, GIB], GIB, 50 * GIB), 0, ""),
        (Usage([4000, 3000], [GIB, GIB], GIB, 50 * GIB), 1, ""),
        (Usage([300, 200, 100], [4 * GIB, 4 * GIB, GIB], 4 * GIB, 50 * GIB), 1, "quota"),
        (Usage([300, 200], [GIB // 2, GIB], GIB, GIB // 4), 2, "nearly full"),
        (Usage([], [], 20 * GIB, 0), 0, ""),
    ],
)
def test_the_oldest_goes_first_and_only_as_much_as_needed(usage: Usage, count: int, why: str) -> None:
    gone, reason = cut(usage, LIMITS)
    assert gone == count
    assert why in reason
    assert bool(reason) == bool(why)


def test_spans_begin_with_the_window() -> None:
    changes = [
        Change(position=0, lsn=8, time=1),
        Change(position=9, lsn=100, time=5, why="d0: a sync is running"),
        Change(position=20, lsn=140, time=7),
    ]
    assert [(s.lsn, s.end_lsn, bool(s.why)) for s in spans(changes, 50, 3)] == [
        (50, 100, False),
        (100, 140, True),
        (140, None, False),
    ]
    assert [s.lsn for s in spans(changes, 140, 7)] == [140]


def test_undo_is_near_the_first_touch_minimum(replica) -> None:
    master = synced(replica, random.Random(31))
    for number in range(64):  # 4 KiB, each place twice; half of them have held data
        run = record(WRITE, 0, 8 * (number % 32) * 16, 4096, bytes([number + 1]) * 4096)
        master.data(FrameType.RECORDS, run)
    master.settle()
    images = replica._images
    head = undo.path_of(images.history.folder, images.history.intervals[-1].head.start.position)
    kept = sum(interval.path.stat().st_size for interval in images.history.intervals)
    assert len(images.history.intervals) <= 2
    held = 16 * 4096  # of 32 places 16 lie in the megabyte that the sync has filled
    overhead = kept - held * len(images.history.intervals)
    assert head.exists()
    assert overhead < 8192 * len(images.history.intervals)


def test_full_disk_costs_points_and_nothing_else(replica, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(32)
    master = synced(replica, draw)
    master.churn(draw, 30)
    master.settle()
    oldest, write = replica._images.history.intervals[0], undowriter.pwrite_all
    failures = iter(range(2))

    def full(*words) -> None:
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*words)

    monkeypatch.setattr(undowriter, "pwrite_all", full)
    master.churn(draw, 10)
    master.settle()
    assert replica.failure() is None
    assert oldest not in replica._images.history.intervals
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(master.lsn)
    if replica._images.history.intervals:
        view = shown(replica, master.lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(master.lsn)
        view.close()


def test_damaged_undo_is_named_and_costs_points_only(tmp_path: Path) -> None:
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(os.urandom(1 << 20))
    wait_for(lambda: bool(replica._images.history.intervals))
    master.data(FrameType.RECORDS, record(WRITE, 0, 0, 65536, b"n" * 65536))
    master.settle()
    replica.close()
    (file,) = undo.files(tmp_path / "web1" / "undo")
    content = bytearray(file.read_bytes())
    content[-5000] ^= 1
    file.write_bytes(content)
    again = opened(tmp_path)
    try:
        assert again.why_not_consistent() is None
        assert any("undo damaged" in alarm for alarm in again.report().alarms)
        assert again.read_image(0, 0, 4) == b"nnnn"
        assert again._images.history.intervals == []
    finally:
        again.close()
