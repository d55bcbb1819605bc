"""How far a replica is behind while something else is done: the figures that show whether it was disturbed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Self

import msgspec

EVERY_SECONDS = 0.5


class Behind(NamedTuple):
    """One look. `bytes`: captured on the master and not in the images; `seconds`: the RPO if the master died now, None:
    not known; `applied_lsn`: how far the images are."""

    bytes: int
    seconds: float | None
    applied_lsn: int


class Lag(msgspec.Struct, kw_only=True):
    """The worst of one phase. `first_lsn`, `last_lsn`: how far the images were at its beginning and end."""

    bytes: int
    seconds: float | None
    first_lsn: int
    last_lsn: int
    looks: int = 1

    def add(self, seen: Behind) -> None:
        known = [seconds for seconds in (self.seconds, seen.seconds) if seconds is not None]
        self.bytes, self.seconds = max(self.bytes, seen.bytes), max(known, default=None)
        self.last_lsn, self.looks = seen.applied_lsn, self.looks + 1


class LagWatch:
    """Looks twice a second, in a thread of its own, inside its block. `phases`: by name, in their order."""

    def __init__(self, look: Callable[[], Behind]) -> None:
        self._look = look
        self.phases: dict[str, Lag] = {}
        self._phase = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def enter(self, phase: str) -> None:
        """From now on what is seen counts for this phase. It is looked once at least."""
        with self._lock:
            self._phase = phase
            self._note(self._look())

    def _note(self, seen: Behind) -> None:
        if self._phase in self.phases:
            self.phases[self._phase].add(seen)
        else:
            lsn = seen.applied_lsn
            self.phases[self._phase] = Lag(bytes=seen.bytes, seconds=seen.seconds, first_lsn=lsn, last_lsn=lsn)

    def _run(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            with self._lock:
                if self._phase:
                    self._note(self._look())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
