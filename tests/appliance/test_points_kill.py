"""kill -9 of the appliance at random moments; then any LSN is what a straight replay says."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import points_child
from one_replica import DISK_BYTES, opened
from straight import replay

from rha.appliance.points import Wanted, find
from rha.appliance.pointview import PointView
from rha.image import formats
from rha.wire import frames

KILLS, CHECKED = 20, 12
SEED, FRAMES = 11, 1500


def run_until(folder: Path, kill_at: int | None, seed: int = SEED, count: int = FRAMES) -> bool:
    """Runs the child, killed once it has committed frame `kill_at`. Returns whether it came to its end by itself."""
    words = [sys.executable, str(Path(__file__).parent / "points_child.py"), str(folder), str(seed), str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        for line in child.stdout:
            if line == "done\n":
                break
            if kill_at is not None and int(line) >= kill_at:
                child.kill()
                child.wait()
                return False
        child.wait()
        assert line == "done\n", child.stderr.read()
    return True


def expected(stream: list[bytes], lsn: int, seed: int = SEED) -> bytes:
    sync = points_child.base(seed)
    first = frames.encode(frames.FrameType.RESYNC, sync, lsn=points_child.FIRST_LSN) + sync
    return bytes(replay([first, *stream], lsn, [DISK_BYTES])[0])


def test_any_point_after_kills(tmp_path: Path) -> None:
    draw = random.Random()
    for kill_at in sorted(draw.sample(range(FRAMES - 200), KILLS)):  # a killed one may be well ahead of its last word
        assert not run_until(tmp_path, kill_at)
    stream = points_child.stream(SEED, FRAMES)
    replica = opened(tmp_path)
    try:
        assert replica.wait_applied(timeout=60)
        images = replica._images
        assert images.history.lost_why == ""
        assert len(images.history.intervals) >= 2, "no border of intervals between the kills"
        first, last = images.history.intervals[0].head.start.lsn, replica.applied_lsn
        wanted = [first, last, *(draw.randrange(first, last) for _ in range(CHECKED))]
        for lsn in wanted:
            place = find(images.history.intervals, replica._journal, Wanted(lsn=lsn), now=0)
            view = PointView(images.history, replica._journal, place, images)
            assert place.lsn <= lsn
            assert view.read(0, 0, DISK_BYTES) == expected(stream, lsn), (lsn, place)
            view.close()
    finally:
        replica.close()
    assert formats.check(tmp_path / "web1" / "images" / "d0.qcow2").is_sound
