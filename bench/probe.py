"""Price of the probe: what the kernel counts per write, beside a plain memcpy of the same size in the same run."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from statistics import median

from bench.lab import bpf_statistics, capture, drained, figures, loop_device
from rha.capture.capture import Capture

ROUNDS = 5
SECONDS = 0.8
DISK_BYTES = 256 << 20
SIZES = (4 << 10, 64 << 10, 1 << 20)


def measure() -> list[dict[str, object]]:
    """One row per kind of write: nanoseconds of the probe per write, GB/s of payload, the same of memcpy."""
    with bpf_statistics(), loop_device(DISK_BYTES) as watched, loop_device(DISK_BYTES) as other:
        with capture(watched, 256 << 20) as running:
            rows = [
                _row("a disk that is not watched", other, running, 4 << 10),
                _row("watched, bitmap mode", watched, running, 4 << 10),
            ]
            running.enter_data_mode(0)
            with drained(running):
                rows += [_row(f"captured, {size >> 10} KiB", watched, running, size) for size in SIZES]
            assert not running.losses(0), f"the ring overflowed: {running.losses(0)}"
    return rows


def _row(name: str, device: str, running: Capture, size: int) -> dict[str, object]:
    probe_ns, memcpy_ns = [], []
    for _ in range(ROUNDS):  # A B A B: the machine's speed drifts
        probe_ns.append(_probe_ns(device, running, size))
        memcpy_ns.append(_memcpy_ns(size))
    ns, plain = median(probe_ns), median(memcpy_ns)
    return {
        "name": name,
        "bytes": size,
        "probe_ns": round(ns),
        "probe_ns_range": [round(min(probe_ns)), round(max(probe_ns))],
        "probe_GBps": round(size / ns, 2),
        "memcpy_ns": round(plain),
        "memcpy_GBps": round(size / plain, 2),
        "of_memcpy": round(plain / ns, 2),
    }


def _probe_ns(device: str, running: Capture, size: int) -> float:
    """Mean over the writes of `SECONDS`."""
    buffer = mmap.mmap(-1, size)
    buffer.write(os.urandom(size))
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    before, end, offset = figures(running), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        for _ in range(16):
            os.pwrite(fd, buffer, offset)
            offset = (offset + size) % DISK_BYTES
    after = figures(running)
    os.close(fd)
    return (after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count)


def _memcpy_ns(size: int) -> float:
    """One copy between buffers that do not fit into a cache, as ring and pages do not."""
    room = 64 << 20
    source, target = mmap.mmap(-1, room), mmap.mmap(-1, room)
    source.write(os.urandom(1 << 20) * (room >> 20))
    target.write(bytes(room))
    from_, to = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, target))
    copies = room // size
    begin = time.perf_counter_ns()
    for at in range(0, copies * size, size):
        ctypes.memmove(to + at, from_ + at, size)
    mixed = time.perf_counter_ns() - begin
    begin = time.perf_counter_ns()
    for at in range(0, copies * size, size):
        ctypes.memmove(to + at, from_ + at, 0)  # the price of the call
    return (mixed - (time.perf_counter_ns() - begin)) / copies
