"""Price of the probe: what the kernel counts per write, beside a plain memcpy of the same size, with the same kind of
source, in the same run.

What is written lies together in memory (huge pages) or scattered, page by page, as on a machine that has run for
long. At queue 1 the processors sleep between two writes, and what they wake up with is cold: the same writes are
measured once more with processors that are kept awake.

The ring is always walked through, so the destination never lies in the CPU's cache, for either of them.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import time
from statistics import median

from bench import figures as f
from bench.lab import awake, bpf_statistics, capture, drained, figures, loop_device
from bench.writer import Writer, address, source
from rha.capture.capture import Capture

ROUNDS = 5
SECONDS = 0.4
MEMCPY_SECONDS = 0.1
DISK_BYTES = RING_BYTES = 256 << 20
SIZES = (4 << 10, 64 << 10, 1 << 20)
DEPTHS = (1, 32)
SOURCES = ("hot", "changing", "scattered")

Row = dict[str, object]


def measure() -> list[Row]:
    """One row per kind of write: nanoseconds of the probe per write and of memcpy, GB/s, and the share of memcpy's
    speed."""
    walked = {"changing": source(RING_BYTES), "scattered": source(RING_BYTES, scattered=True)}
    with bpf_statistics(), loop_device(DISK_BYTES) as watched, loop_device(DISK_BYTES) as other:
        with capture(watched, RING_BYTES) as running:
            rows = [
                _row("a disk that is not watched", other, running, 4 << 10, 1, walked),
                _row("watched, bitmap mode", watched, running, 4 << 10, 1, walked),
            ]
            running.enter_data_mode(0)
            with drained(running):
                for size, depth, kind in itertools.product(SIZES, DEPTHS, SOURCES):
                    name = f"{size >> 10} KiB, queue {depth}, {kind} source"
                    rows.append(_row(name, watched, running, size, depth, walked, kind=kind))
                with awake():
                    for kind in SOURCES:
                        name = f"4 KiB, queue 1, {kind} source, no processor asleep"
                        rows.append(_row(name, watched, running, 4 << 10, 1, walked, kind=kind))
            assert not running.losses(0), f"the ring overflowed: {running.losses(0)}"
    return rows


def _row(
    name: str,
    device: str,
    running: Capture,
    size: int,
    depth: int,
    walked: dict[str, mmap.mmap],
    *,
    kind: str = "changing",
) -> Row:
    data = walked.get(kind) or source(size)
    probe_ns, memcpy_ns = [], []
    for _ in range(ROUNDS):  # A B A B: the machine's speed drifts
        probe_ns.append(_probe_ns(device, running, size, depth, data))
        memcpy_ns.append(_memcpy_ns(size, data, RING_BYTES))
    ns, plain = median(probe_ns), median(memcpy_ns)
    return {
        "name": name,
        "bytes": size,
        "probe_ns": f.spread(probe_ns, 0),
        "probe_GBps": round(size / ns, 2),
        "memcpy_ns": f.spread(memcpy_ns, 0),
        "memcpy_GBps": round(size / plain, 2),
        "of_memcpy": f.ratios(memcpy_ns, probe_ns),
    }


def _probe_ns(device: str, running: Capture, size: int, depth: int, data: mmap.mmap) -> float:
    """Mean over the writes of `SECONDS`; one that became two bios counts as one."""
    writer = Writer(device, DISK_BYTES, size, depth, data)
    (spent, calls), end, written = figures(running), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        writer.batch()
        written += depth
    spent_after, calls_after = figures(running)
    writer.close()
    assert calls_after - calls >= written, "a write passed the probe by"
    return (spent_after - spent) / written


_target: list[mmap.mmap] = []


def _memcpy_ns(size: int, data: mmap.mmap, room: int) -> float:
    """Mean of one copy to a place that walks through a room as large as the ring, without the price of the call."""
    if not _target:
        _target.append(source(room))
    to, from_ = address(_target[0]), address(data)
    copying = _copies_ns(to, from_, room // size, len(data) // size, size, size)
    return copying - _copies_ns(to, from_, room // size, len(data) // size, size, 0)


def _copies_ns(to: int, from_: int, targets: int, sources: int, step: int, size: int) -> float:
    """Mean nanoseconds of one `memmove` of `size` bytes over `MEMCPY_SECONDS` or one walk, whichever is longer."""
    copy, begin, count = ctypes.memmove, time.perf_counter_ns(), 0
    while count < targets or time.perf_counter_ns() - begin < MEMCPY_SECONDS * 1e9:
        for at in range(min(targets, 4096)):
            place = count + at
            copy(to + place % targets * step, from_ + place % sources * step, size)
        count += min(targets, 4096)
    return (time.perf_counter_ns() - begin) / count
