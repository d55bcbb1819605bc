"""What the scenarios of one appliance share: memory for what is received, and turns at applying.

Measured with fifty masters that send as fast as they are let (bench/masters.py): without this every connection held up
to 32 MiB and every applier a batch of 64 MiB (now 16) at the same time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping

from rha.wire.credit import LEAST_WINDOW_BYTES, WINDOW_BYTES

POOL_BYTES = 128 << 20  # of frames under way, of all masters together
ACTIVE_SECONDS = 2.0  # so long a master counts that has sent something
PATIENCE_SECONDS = 10.0  # so long a turn is waited for: a disk that hangs under one scenario must not stop the others


def window_of(active: int) -> int:
    """Bytes that each of so many busy masters may have under way. Pure."""
    return max(LEAST_WINDOW_BYTES, min(WINDOW_BYTES, POOL_BYTES // max(1, active)))


class Pool:
    """Counts who is busy; any thread. A quiet master keeps a window of the least size: it is not counted, and may begin
    to send at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[object, float] = {}

    def window(self, who: object, is_sending: bool, now: float) -> int:
        """The window of one of them. `now`: monotonic; `is_sending`: it has sent credited frames since the last
        call."""
        with self._lock:
            if is_sending:
                self._heard[who] = now
            self._heard = {one: heard for one, heard in self._heard.items() if now - heard <= ACTIVE_SECONDS}
            return window_of(len(self._heard)) if who in self._heard else LEAST_WINDOW_BYTES

    def leave(self, who: object) -> None:
        with self._lock:
            self._heard.pop(who, None)


def chosen(waiting: Collection[str], served: Mapping[str, int]) -> str:
    """Whose turn it is: of those who wait, the one that was served least; by name when they are even. Pure."""
    return min(waiting, key=lambda name: (served.get(name, 0), name))


class Turns:
    """So many at a time, and who was served least goes first. Served is counted in bytes; who has not been there for a
    while is counted as no worse than the others: nobody saves up for a flood."""

    def __init__(self, slots: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._slots, self._patience = slots, patience_seconds
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._served: dict[str, int] = {}
        self._inside: list[str] = []
        self._floor = 0  # what the last one to be let in had been served

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """The block runs when it is this one's turn, or when it has waited too long for it."""
        with self._changed:
            self._served[name] = max(self._served.get(name, 0), self._floor)
            self._waiting.append(name)
            self._changed.wait_for(lambda: self._is_next(name), self._patience)
            self._waiting.remove(name)
            self._inside.append(name)
            self._floor = max(self._floor, self._served[name])
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(name)
                if name not in self._inside and name not in self._waiting and self._served[name] <= self._floor:
                    del self._served[name]  # the same as never having been here
                self._changed.notify_all()

    def part_of(self, size: int, least: int) -> int:
        """How much of `size` one should do in its turn, when others wait for theirs."""
        with self._changed:
            return max(min(size, least), size // (1 + len(self._waiting)))

    @property
    def is_waited_for(self) -> bool:
        """Do others wait for their turn?"""
        with self._changed:
            return bool(self._waiting)

    def _is_next(self, name: str) -> bool:
        return len(self._inside) < self._slots and chosen(self._waiting, self._served) == name

    def serve(self, name: str, size: int) -> None:
        """Inside its block: so many bytes were done."""
        with self._changed:
            self._served[name] = self._served.get(name, 0) + size


RECEIVING = Pool()
APPLYING = Turns(max(2, os.cpu_count() or 1))
