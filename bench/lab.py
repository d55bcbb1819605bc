"""What the measurements are made on: devices in memory, a probe, the kernel's statistics. Each gives back
what it took when its block is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from rha.capture import bpf, pins, probe
from rha.capture.capture import Capture
from rha.capture.device import lookup
from rha.vm.libvirt import LibvirtHost

MEMORY = Path("/dev/shm")
_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


@contextlib.contextmanager
def loop_device(size: int, folder: Path = MEMORY) -> Iterator[str]:
    """A loop device over a file, all `size` bytes present: the first write of a page is no slower than the second. In
    memory, or in a folder of a disk: then past the page cache, at the disk's own speed."""
    with _file(size, folder) as file:
        if folder == MEMORY:
            with open(file, "r+b") as backing:
                os.posix_fallocate(backing.fileno(), 0, size)
        else:
            fill(str(file), size)
        with _looped(file, direct=folder != MEMORY) as device:
            yield device


def fill(device: str, size: int) -> None:
    """Random bytes everywhere, written out: what stayed in the cache would be captured later."""
    block = os.urandom(16 << 20)
    with open(device, "wb", buffering=0) as disk:
        for at in range(0, size, len(block)):
            disk.write(block[: size - at])
        os.fsync(disk.fileno())


@contextlib.contextmanager
def sparse_device(size: int) -> Iterator[str]:
    """A loop device over an empty file in memory, which may say that it is larger than the memory."""
    with _file(size) as file, _looped(file) as device:
        yield device


@contextlib.contextmanager
def _file(size: int, folder: Path = MEMORY) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="rha-bench-", dir=folder)
    try:
        os.truncate(handle, size)
        os.close(handle)
        yield Path(name)
    finally:
        os.unlink(name)


@contextlib.contextmanager
def _looped(file: Path, *, direct: bool = False) -> Iterator[str]:
    device = _output("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", str(file))
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def bpf_statistics() -> Iterator[None]:
    """The kernel counts calls and nanoseconds of every BPF program; that costs each call two clock reads."""
    before = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(before)


@contextlib.contextmanager
def capture(device: str, ring_bytes: int) -> Iterator[Capture]:
    """The probe, loaded for one device under a scenario name of this process; the disk stands in bitmap mode."""
    name = f"bench-{os.getpid()}"
    probe.load(probe.Specification(scenario=name, devices=[device], ring_bytes=ring_bytes))
    try:
        running = Capture(name, [lookup(device)])
        try:
            yield running
        finally:
            running.close()
    finally:
        pins.remove(name)


def figures(running: Capture) -> tuple[int, int]:
    """The kernel's counters: nanoseconds in all programs of the probe, and calls of the one that sees each write."""
    spent = calls = 0
    for program in pins.PROGRAMS:
        fd = bpf.get(pins.folder(running.scenario) / program)
        found = bpf.figures(fd)
        os.close(fd)
        spent += found.run_time_ns
        calls += found.run_count if program == "on_queue" else 0
    return spent, calls


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """No processor sleeps: each has a process that runs when nothing else wants to."""
    words = [
        sys.executable,
        "-c",
        "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile 1: pass",
    ]
    spinners = [subprocess.Popen(words) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def remove_domain(name: str) -> None:
    """Of libvirt, running or not; nothing to do when there is none."""
    host = LibvirtHost()
    host.destroy(name)
    host.undefine(name)
    host.close()


@contextlib.contextmanager
def drained(running: Capture) -> Iterator[None]:
    """A reader that looks at each record's header and gives the space back: the least that any reader does."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if running.ring.wait(0.1):
                running.ring.release(running.ring.next(16 << 20).end)

    reader = threading.Thread(target=read, name="reader")
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
