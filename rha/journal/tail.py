"""The newest frames of a journal, still in memory: who applies them soon need not read them back.

They were checked when they came, and the applier takes them only when they are durable: what is applied is the same as
if it were read from the file, from which it is read when there was no room here, and after a crash.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque

from rha.journal.reader import Entry

TAIL_BYTES = 12 << 20  # of one journal
ALL_BYTES = 48 << 20  # of all journals of this process
ENTRIES = 4096


class Room:
    """Bytes that several tails share; any thread."""

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """False when there is not so much left."""
        with self._lock:
            if self._used + size > self._most:
                return False
            self._used += size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self._used -= size


SHARED = Room(ALL_BYTES)


class Tail:
    """Frames in order, with holes where there was no room: the oldest are needed first, so they stay. One thread adds,
    another asks and forgets."""

    def __init__(self, most: int = TAIL_BYTES, shared: Room = SHARED) -> None:
        self._most, self._shared = most, shared
        self._lock = threading.Lock()  # the fields below
        self._held: deque[tuple[Entry, int]] = deque()  # with the bytes that it keeps in memory
        self._bytes = 0
        self._followed = False

    def add(self, entry: Entry) -> None:
        """Its payload must not change any more."""
        # A slice keeps all of what it was cut from.
        size = memoryview(entry.payload.obj).nbytes
        with self._lock:
            fits = self._followed and self._bytes + size <= self._most and len(self._held) < ENTRIES
            if fits and self._shared.take(size):
                self._held.append((entry, size))
                self._bytes += size

    def run(self, start: int, limit: int) -> list[Entry]:
        """The frames from a position on that begin below `limit`, up to the first that is not here. From the first call
        on frames are kept."""
        found, at = [], start
        with self._lock:
            self._followed = True
            for entry, _ in itertools.dropwhile(lambda held: held[0].position < start, self._held):
                if entry.position != at or at >= limit:
                    break
                found.append(entry)
                at = entry.next_position
        return found

    def forget(self, before: int) -> None:
        """Nobody will ask for frames that begin before this position."""
        freed = 0
        with self._lock:
            while self._held and self._held[0][0].position < before:
                freed += self._held.popleft()[1]
            self._bytes -= freed
        self._shared.give(freed)

    def close(self) -> None:
        self.forget(1 << 63)
