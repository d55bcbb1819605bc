"""Points: how soon one can be looked at, and a rewind beside plain writing of the same places.

The disk is full of data first; then random writes of 4 KiB go through the applier with undo, as many bytes as the disk
has. RHA_BENCH_POINTS_MIB says how many (10240 for the figure of the goal; four times that is needed on the disk).
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import figures as f
from bench.feed import PIECE, SIZE, Feed, opened
from bench.process import MIB
from proof.lab import wait_for
from rha.scenario import Size

Row = dict[str, object]
MEGABYTES = int(os.environ.get("RHA_BENCH_POINTS_MIB", "1536"))
UNLIMITED = Size(1 << 42)
READS = 5000


class Took(NamedTuple):
    """Seconds, and of the processors in this process; the storage daemon's come to nothing here."""

    seconds: float
    cpu_seconds: float


def measure() -> list[Row]:
    """Rows as tables.rows shows them."""
    with tempfile.TemporaryDirectory(prefix="rha-bench-") as name:
        folder = Path(name)
        feed = opened(folder, MEGABYTES * PIECE, window_bytes=UNLIMITED, reserve=Size(0))
        feed.sync(MEGABYTES)
        wait_for(lambda: feed.replica.points.list().intervals, 60)
        before = feed.lsn
        places: list[int] = []
        churn = _took(lambda: places.extend(feed.churn(MEGABYTES, MEGABYTES * PIECE)))
        listing = feed.replica.points.list()
        rows: list[Row] = [
            {
                "name": f"{MEGABYTES} MiB of random 4 KiB over a full disk of {MEGABYTES} MiB, with undo",
                "load": f.load(),
                "MBps": round(MEGABYTES * PIECE / 1e6 / churn.seconds),
                "touched_MiB": round(len(places) * SIZE / MIB),
                "intervals": listing.intervals,
            },
            _look(feed, before),
            *_rewinds(feed, before, places, folder / "plain"),
        ]
        feed.replica.close()
        return rows


def _took(act: Callable[[], object]) -> Took:
    """What was written before is on the disk: nobody pays for others."""
    os.sync()
    begun, cpu = time.perf_counter(), time.process_time()
    act()
    return Took(round(time.perf_counter() - begun, 2), round(time.process_time() - cpu, 2))


def _look(feed: Feed, lsn: int) -> Row:
    """The point before all writes, with its overlays, as a substitute would be started from it."""
    peak, points = _peak_bytes(), feed.replica.points
    took = _took(lambda: points.open(str(lsn)))
    row: Row = {
        "name": "the point before all of that",
        "load": f.load(),
        "overlay_ready": took._asdict(),
        "more_memory_at_the_peak_MiB": round((_peak_bytes() - peak) / MIB),
    }
    overlay = points.opened("1").overlays()[0].path
    words = ["qemu-img", "bench", "-f", "qcow2", "-c", str(READS), "-s", "65536", "-S", "65536", "-U", "-d", "8"]
    read = _took(lambda: subprocess.run([*words, str(overlay)], check=True, capture_output=True))
    points.close("1")
    return row | {"read_64KiB_MBps": round(READS * 65536 / 1e6 / read.seconds)}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _rewinds(feed: Feed, before: int, places: Sequence[int], file: Path) -> Iterator[Row]:
    """There and back, each beside plain writing of 4 KiB to the same places of a file of that size, in the order of the
    disk and in any order, synced."""
    back, size = feed.lsn, len(places) * SIZE
    shuffled = random.sample(places, len(places))
    for what, lsn in (("rewind", before), ("the rewind rewound", back)):
        plain = [_plain(file, order) for order in (places, shuffled)]
        peak = _peak_bytes()
        took = _took(lambda lsn=lsn: feed.replica.rewind(str(lsn), "bench"))
        yield {
            "name": f"{what}, {round(size / MIB)} MiB",
            "load": f.load(),
            "rewind": took._asdict() | {"MBps": round(size / 1e6 / took.seconds)},
            "plain_ascending": plain[0]._asdict() | {"MBps": round(size / 1e6 / plain[0].seconds)},
            "plain_at_random": plain[1]._asdict() | {"MBps": round(size / 1e6 / plain[1].seconds)},
            "more_memory_at_the_peak_MiB": round((_peak_bytes() - peak) / MIB),
        }


def _plain(file: Path, places: Sequence[int]) -> Took:
    content, part = os.urandom(PIECE), os.urandom(SIZE)
    with file.open("wb") as written:
        for _ in range(MEGABYTES):
            written.write(content)

    def write() -> None:
        fd = os.open(file, os.O_WRONLY)
        for place in places:
            os.pwrite(fd, part, place)
        os.fdatasync(fd)
        os.close(fd)

    took = _took(write)
    file.unlink()
    return took
