"""How the cost of protection grows: with the disk, with the number of scenarios, with the size of the writes, with the
window of points. Memory is what is resident besides the ring; a window's day is a simulated one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import figures as f
from bench.feed import PIECE, Feed, opened
from bench.lab import MEMORY, sparse_device
from bench.process import MIB, resident_bytes
from proof.lab import Lab, run, wait_for
from rha.scenario import Duration, Size

Row = dict[str, object]
GIB, TIB = 1 << 30, 1 << 40
DISKS = (GIB, 64 * GIB, TIB)
SCENARIOS = (1, 10, 50)
WRITES = (4 << 10, 64 << 10, 512 << 10)
CHURN_MIB, DISK_MIB = 256, 512
# Of the simulated clock: the window, and the time between two steps of one MiB of writes each.
WINDOWS = ((60.0, 5.0), (3600.0, 120.0), (86400.0, 600.0))
GOALS = "goals: 150 MiB + 2 MiB for each TiB a scenario; journal 1.1; undo 1.1"
LOAD = ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--runtime=10", "--time_based", "--rate=20m", "--direct=1"]


def measure() -> list[Row]:
    """Rows as tables.rows shows them."""
    rows: list[Row] = [{"name": GOALS, "load": f.load()}]
    rows += [_of_disk(size) for size in DISKS]
    rows += [_of_scenarios(count) for count in SCENARIOS]
    rows += [_of_writes(size) for size in WRITES]
    return rows + [_of_window(*window) for window in WINDOWS]


def _of_disk(size: int) -> Row:
    """One protected xfs, the first sync of its used blocks, then random writes over a file nearly as large as it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        device = stack.enter_context(sparse_device(size))
        lab = Lab(folder, MEMORY, stack)
        mnt = lab.mount(device, "xfs")
        lab.appliance.start()
        engine = lab.engine([device], sync="auto")
        engine.start()
        engine.wait_ordered(300)
        file = f"--filename={mnt / 'file'}"
        run("fio", "--name=load", file, f"--size={size // 10 * 8}", "--fallocate=none", "--ioengine=libaio", *LOAD)
        engine.wait_ordered(300)
        assert engine.process is not None
        assert lab.appliance.process is not None
        daemons = sum(map(_proportional_bytes, _children(lab.appliance.process.pid)))
        return {
            "name": f"one disk of {size // GIB} GiB",
            "engine_MiB": round(resident_bytes(engine.process.pid) / MIB, 1),
            "appliance_MiB": round(resident_bytes(lab.appliance.process.pid) / MIB, 1),
            "storage_daemon_MiB": round(daemons / MIB, 1),
        }


def _children(pid: int) -> list[int]:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]


def _proportional_bytes(pid: int) -> int:
    """Pages that several processes have count in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _of_scenarios(count: int) -> Row:
    """So many replicas in one process, each with a disk of 64 MiB that was synced and written to."""
    words = [sys.executable, "-c", f"from bench import growth; growth.hold({count})"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        before = int(process.stdout.readline())
        process.stdout.readline()
        mine = _proportional_bytes(process.pid)
        theirs = sum(map(_proportional_bytes, _children(process.pid)))
        process.stdin.close()
    return {
        "name": f"{count} scenarios on one appliance",
        "appliance_MiB": round(mine / MIB, 1),
        "appliance_MiB_a_scenario": round((mine - before) / MIB / count, 1),
        "storage_daemon_MiB_a_scenario": round(theirs / MIB / count, 1),
    }


def hold(count: int) -> None:
    """The process that has them, until its standard input ends."""
    with ExitStack() as stack:
        print(_proportional_bytes(os.getpid()), flush=True)
        for _ in range(count):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-", dir=MEMORY)))
            feed = opened(folder, 64 * PIECE)
            stack.callback(feed.replica.close)
            feed.sync(64)
            _wait_points(feed)
            feed.churn(16, 64 * PIECE)
        print("ready", flush=True)
        sys.stdin.read()


def _wait_points(feed: Feed) -> None:
    wait_for(lambda: feed.replica.points.list().intervals, 60)


def _of_writes(size: int) -> Row:
    """Bytes that the appliance writes beside the image, for each byte that the master wrote (journal) or that was
    touched for the first time (undo)."""
    with tempfile.TemporaryDirectory(prefix="rha-bench-") as folder:
        feed = opened(Path(folder), DISK_MIB * PIECE)
        feed.sync(DISK_MIB)
        _wait_points(feed)
        journal, undo = feed.replica.journal_end, feed.replica._images.history.size()
        touched = len(feed.churn(CHURN_MIB, DISK_MIB * PIECE, size))
        intervals = feed.replica.points.list().intervals
        row: Row = {
            "name": f"random writes of {size >> 10} KiB",
            "journal_of_written": round((feed.replica.journal_end - journal) / (CHURN_MIB * PIECE), 3),
            "undo_of_first_touched": round((feed.replica._images.history.size() - undo) / (touched * size), 3),
            "intervals": intervals,
        }
        feed.replica.close()
        return row


def _of_window(window: float, step: float) -> Row:
    """One MiB of random writes of 4 KiB at each step of the clock, for one and a half windows; then the oldest point is
    opened."""
    now = time.time() - 2 * window
    with tempfile.TemporaryDirectory(prefix="rha-bench-", dir=MEMORY) as folder:
        feed = opened(Path(folder), 64 * PIECE, window=Duration(window), window_bytes=Size(64 * GIB), reserve=Size(0))
        feed.replica._images.history._clock = lambda: now
        feed.sync(64)
        _wait_points(feed)
        begun = now
        while now < begun + 1.5 * window:
            now += step
            feed.churn(1, 64 * PIECE)
            _wait_checkpoint(feed)
        listing = feed.replica.points.list()
        first = feed.replica._images.history.intervals[0].head.start
        row: Row = {
            "name": f"a window of {window:g} s, {step:g} s between two MiB",
            "intervals": listing.intervals,
            "kept_MiB": round(listing.bytes / MIB, 1),
            "written_in_window_MiB": round(window / step, 1),
            "oldest_point_open_seconds": round(_seconds(lambda: feed.replica.points.open(str(first.lsn))), 2),
            "process_MiB": round(_proportional_bytes(os.getpid()) / MIB, 1),
        }
        feed.replica.points.close_all()
        feed.replica.close()
        return row


def _wait_checkpoint(feed: Feed) -> None:
    files = feed.replica._images._files
    wait_for(lambda: files._applier is not None and files._applier.saved.position >= feed.replica.journal_end, 60)


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
