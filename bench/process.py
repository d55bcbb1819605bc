"""What a process costs: processor seconds and resident memory."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

MIB = 1 << 20
_SAMPLE_SECONDS = 0.5


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads so far."""
    return sum(_ticks(pid)[:2]) / os.sysconf("SC_CLK_TCK")


def family_cpu_seconds(pid: int) -> float:
    """The same with that of all processes that it has started, those that have ended as well."""
    everybody = [int(one.name) for one in Path("/proc").glob("[0-9]*")]
    children = [one for one in everybody if _words(one)[1:2] == [str(pid)]]
    return sum(_ticks(pid)) / os.sysconf("SC_CLK_TCK") + sum(map(family_cpu_seconds, children))


def _ticks(pid: int) -> list[int]:
    """User and system time of a process, and of its children that it has waited for; nothing when it is gone."""
    return [int(word) for word in _words(pid)[11:15]]


def _words(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def resident_bytes(pid: int) -> int:
    """Memory that is resident and not the ring, which /proc names bpf-map."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = "bpf" not in line
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


class PeakMemory:
    """The most that a process had resident inside the block, sampled twice a second (each look walks its page tables):
    `bytes`."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory")
        self.bytes = 0

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.bytes = max(self.bytes, resident_bytes(self._pid))

    def __enter__(self) -> PeakMemory:
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._sampler.join()
