"""Every change of a disk's state, with its reason and evidence, on this host's disk: who takes over at night reads
what happened before.

One JSON line a change, `history.jsonl` below the scenario's state folder, one older file kept. Changes are rare (a
round that fails waits a second before the next), so writing them does not feed the capture of a watched root disk. A
thread of its own writes: a disk that hangs must not hang the capture.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter, deque
from pathlib import Path
from typing import Any

import msgspec

from rha.decoding import from_json
from rha.report import Sync

STATE_DIR = Path(os.environ.get("RHA_STATE_DIR", "/var/lib/rha/engine"))  # for a second instance on one host
LONGEST_BYTES = 1 << 20
KEPT_IN_MEMORY = 1000


class Change(msgspec.Struct, kw_only=True, frozen=True):
    """A disk came into a state. `time`: seconds since the epoch; `reason`: its name, counted; `why`: the sentence, with
    `evidence` in it; `is_loss`: with this change the disk left write order, or was found outside it; `sync`: the one
    that brought it into write order."""

    time: float
    disk: str
    state: str
    reason: str
    why: str
    evidence: str = ""
    is_loss: bool = False
    sync: Sync | None = None


def folder_of(scenario: str) -> Path:
    """Where the engine of a scenario keeps what must survive it."""
    return STATE_DIR / scenario


def read(folder: Path) -> list[Change]:
    """The changes on disk, oldest first, both files. A line that a crash cut off is left out. Raises OSError."""
    found = []
    for name in ("history.jsonl.1", "history.jsonl"):
        try:
            lines = (folder / name).read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                found.append(from_json(line, Change))
            except msgspec.MsgspecError:
                continue
    return found


class History:
    """The changes so far; new ones are counted at once and written beside.

    `failure`: why the last one could not be written, empty when it was.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "history.jsonl"
        self.failure = ""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            before = read(folder)
        except OSError as error:
            self.failure, before = f"the history cannot be kept: {error}", []
        self._recent = deque(before, maxlen=KEPT_IN_MEMORY)
        self._losses = Counter((change.disk, change.reason) for change in before if change.is_loss)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._writer.start()

    def add(self, change: Change) -> None:
        """Counts and keeps a change. Never waits for a disk."""
        with self._lock:
            self._recent.append(change)
            if change.is_loss:
                self._losses[change.disk, change.reason] += 1
        self._queue.put(change)

    def last(self, disk: str) -> Change | None:
        """The disk's newest change."""
        with self._lock:
            return next((change for change in reversed(self._recent) if change.disk == disk), None)

    def losses(self, disk: str) -> dict[str, int]:
        """How often the disk left write order, by reason, as far as the history goes back."""
        with self._lock:
            return {reason: count for (name, reason), count in self._losses.items() if name == disk}

    def recent(self, longest: int = KEPT_IN_MEMORY) -> list[dict[str, Any]]:
        """The newest changes, oldest first."""
        with self._lock:
            found = list(self._recent)[-longest:] if longest > 0 else []
        return [msgspec.to_builtins(change) for change in found]

    def close(self) -> None:
        """Writes what is still to be written; waits two seconds for it at most."""
        self._queue.put(None)
        self._writer.join(2)

    def _write_all(self) -> None:
        while (change := self._queue.get()) is not None:
            try:
                self._append(msgspec.json.encode(change) + b"\n")
                self.failure = ""
            except OSError as error:
                self.failure = f"the history cannot be kept: {error}"

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self._path):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            full = file.tell() > LONGEST_BYTES
        if full:
            self._path.replace(self._path.with_suffix(".jsonl.1"))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
