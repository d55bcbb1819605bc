"""The stamp writer (proof/stamp.c) as a process, its log, and the rule that every cut of its writes must keep.

The rule: no stamp on a disk without every earlier one whose write had completed before that stamp's write was
submitted. Writes of one sector are never in flight together, so per sector "or a later one" is a larger sequence.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from proof.compiled import compiled

SECTOR = 512
MAGIC = 0x50415453414852
_WORDS = SECTOR // 8
_WEIGHTS = np.arange(1, 2 * _WORDS, 2, dtype=np.uint64)
_FAILED = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ENTRY = np.dtype(
    [("submitted", "<u8"), ("completed", "<u8"), ("sector", "<u8"), ("sectors", "<u4"), ("device", "<u2"), ("w", "<u2")]
)
Words = np.ndarray[Any, np.dtype[np.uint64]]


class StampWriter:
    """Stamps devices while its block runs. `log` lies in memory and stays readable afterwards."""

    def __init__(
        self,
        log: Path,
        devices: Sequence[str],
        *,
        seed: int,
        threads: int = 16,
        pause_us: int = 0,
        longest: int = 512,
        capacity: int = 1 << 20,
    ) -> None:
        """`longest` in sectors; `capacity`: writes that the log takes, after which the writer ends."""
        numbers = [capacity, seed, threads, pause_us, longest]
        self.log = log
        self._words = [str(compiled("stamp.c")), str(log), *map(str, numbers), *devices]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._words, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"writing\n", "the stamp writer did not start"

    def stop(self) -> None:
        """Ends it in order; raises AssertionError when it had failed."""
        process, self._process = self._process, None
        if process:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
            assert status == 0, f"the stamp writer ended with {status}"

    def hurry(self, value: bool) -> None:
        """Writes as fast as it can, or at its own pace again."""
        if self._process:
            self._process.send_signal(signal.SIGUSR1 if value else signal.SIGUSR2)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """No write is under way in the block: a thread stops when its system call is over."""
        process = self._process
        assert process, "the stamp writer does not run"
        process.send_signal(signal.SIGSTOP)
        try:
            tasks = Path(f"/proc/{process.pid}/task")
            while not all(_is_stopped(task / "stat") for task in tasks.iterdir()):
                time.sleep(0.001)
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def count(self) -> int:
        """Writes completed so far."""
        return int(np.count_nonzero(np.fromfile(self.log, ENTRY)["completed"]))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _is_stopped(stat: Path) -> bool:
    return stat.read_text().rpartition(") ")[2].startswith("T")


class Fault(NamedTuple):
    """A cut that breaks the rule, in a sentence."""

    sentence: str


class SequenceRule:
    """Holds the images of one stream to the rule, at cuts that only go forward."""

    def __init__(self, log: Path, sizes: Sequence[int]) -> None:
        """`sizes`: of the disks in bytes, in the order in which the writer was given them."""
        entries = np.fromfile(log, ENTRY)
        self._entries = entries[: np.flatnonzero(entries["submitted"])[-1] + 1]
        done = (self._entries["completed"] != 0) & (self._entries["completed"] != _FAILED)
        by_end = np.flatnonzero(done)
        self._by_end = by_end[np.argsort(self._entries["completed"][by_end], kind="stable")]
        self._passed = 0  # of _by_end: those that `_required` holds
        self._required = [np.zeros(size // SECTOR, np.uint64) for size in sizes]
        self._seen = [np.zeros(size // SECTOR, np.uint64) for size in sizes]
        self.writes = int(done.sum())

    def fault(self, images: Sequence[Any]) -> Fault | None:
        """Checks the disks' content (buffers) at one cut; a later cut must come later. None: all is well."""
        tables = [np.frombuffer(image, np.uint64).reshape(-1, _WORDS) for image in images]
        found = [np.where(table[:, 0] == MAGIC, table[:, 3], 0).astype(np.uint64) for table in tables]
        newest = 0
        for disk, (table, sequences) in enumerate(zip(tables, found, strict=True)):
            fresh = np.flatnonzero(sequences != self._seen[disk])
            if (wrong := self._damaged(disk, table, fresh)) is not None:
                return wrong
            self._seen[disk] = sequences
            if len(sequences) and sequences.max():
                stamped = np.unique(sequences[sequences > 0]) - np.uint64(1)
                newest = max(newest, int(self._entries["submitted"][stamped].max()))
        self._require_completed_before(newest)
        for disk, sequences in enumerate(found):
            if (missing := self._missing(disk, sequences)) is not None:
                return missing
        return None

    def _damaged(self, disk: int, table: Words, fresh: Any) -> Fault | None:
        """A stamp that no write could have left. Sectors that hold none at all are not judged here."""
        rows = table[fresh]
        rows = rows[rows[:, 0] == MAGIC]
        if not len(rows):
            return None
        sums = rows.copy()
        sums[:, 5] = 0
        bad = (sums * _WEIGHTS).sum(axis=1, dtype=np.uint64) != rows[:, 5]
        bad |= rows[:, 1] != disk
        bad |= (rows[:, 3] == 0) | (rows[:, 3] > len(self._entries))
        bad |= table[fresh][table[fresh][:, 0] == MAGIC][:, 2] != fresh[table[fresh][:, 0] == MAGIC]
        if not bad.any():
            return None
        first = rows[np.flatnonzero(bad)[0]]
        return Fault(f"disk {disk}: a torn or misplaced stamp: sector {first[2]}, sequence {first[3]}")

    def _require_completed_before(self, moment: int) -> None:
        ends = self._entries["completed"][self._by_end]
        until = int(np.searchsorted(ends, np.uint64(moment), side="left"))
        for index in self._by_end[self._passed : until]:
            entry = self._entries[index]
            part = self._required[entry["device"]][entry["sector"] : entry["sector"] + entry["sectors"]]
            np.maximum(part, np.uint64(index + 1), out=part)
        self._passed = max(self._passed, until)

    def _missing(self, disk: int, sequences: Words) -> Fault | None:
        lost = np.flatnonzero(sequences < self._required[disk])
        if not len(lost):
            return None
        at = int(lost[0])
        return Fault(
            f"disk {disk}: {len(lost)} sectors are older than a write that had completed before a later one was "
            f"submitted; sector {at} holds sequence {sequences[at]}, {self._required[disk][at]} had completed"
        )

    def lost_bytes(self, images: Sequence[Any]) -> int:
        """Bytes that completed writes left out of the final images: 0 when nothing was lost."""
        self._require_completed_before(2**63)
        lost = 0
        for image, required in zip(images, self._required, strict=True):
            table = np.frombuffer(image, np.uint64).reshape(-1, _WORDS)
            lost += int(np.count_nonzero(np.where(table[:, 0] == MAGIC, table[:, 3], 0) < required)) * SECTOR
        return lost
