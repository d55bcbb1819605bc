"""What makes a storm worse: a clock that jumps, processors that are busy, too little memory."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from proof.compiled import compiled
from proof.lab import Daemon

STEP_SECONDS = 1800  # certificates begin an hour before they are made: further back is refused, and rightly
CGROUPS = Path("/sys/fs/cgroup")


class Clock:
    """CLOCK_REALTIME of chosen daemons, moved (proof/clock.c); CLOCK_MONOTONIC is left alone, as a real step does."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._file = folder / "clock"
        self._draw = random.Random(seed)
        self.steps = 0
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """So far from the true time."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("<q", int(seconds * 1e9)))

    def governs(self, daemon: Daemon) -> None:
        """From its next start on."""
        library = compiled("clock.c", "-shared", "-fPIC")
        daemon.variables |= {"LD_PRELOAD": str(library), "RHA_PROOF_CLOCK": str(self._file)}

    def step(self) -> None:
        """Jumps up to half an hour away from the true time, either way."""
        self.steps += 1
        self.set(self._draw.uniform(-STEP_SECONDS, STEP_SECONDS))


@contextmanager
def clock_steps(clock: Clock, pause: float = 1.0) -> Iterator[None]:
    """The clock jumps every `pause` seconds."""
    over = threading.Event()

    def jump() -> None:
        while not over.wait(pause):
            clock.step()

    thread = threading.Thread(target=jump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def busy_processors() -> Iterator[None]:
    """One endless loop pinned to each processor, at a better priority than everybody else."""
    with ExitStack() as stack:
        for processor in sorted(os.sched_getaffinity(0)):
            words = ["taskset", "-c", str(processor), "nice", "-n", "-5", "sh", "-c", "while :; do :; done"]
            process = subprocess.Popen(words)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@contextmanager
def little_memory(daemons: list[tuple[Daemon, int]]) -> Iterator[None]:
    """Each daemon, from its next start on, in a control group of so many bytes (its page cache counts)."""
    with ExitStack() as stack:
        for number, (daemon, limit_bytes) in enumerate(daemons):
            group = _memory_group(f"rha-proof-{os.getpid()}-{number}", limit_bytes)
            stack.callback(_remove_group, group)
            daemon.wrap = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
            stack.callback(daemon.wrap.clear)
        yield


def _memory_group(name: str, limit_bytes: int) -> Path:
    first = CGROUPS / "memory"
    group = (first if first.is_dir() else CGROUPS) / name
    group.mkdir()
    limit = group / "memory.limit_in_bytes"
    (limit if limit.exists() else group / "memory.max").write_text(str(limit_bytes))
    return group


def _remove_group(group: Path) -> None:
    """What still runs in it goes on in the parent's."""
    for pid in (group / "cgroup.procs").read_text().split():
        (group.parent / "cgroup.procs").write_text(pid)
    group.rmdir()
