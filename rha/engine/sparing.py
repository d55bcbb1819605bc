"""A spool on a watched disk: its own writes are not captured, and every doubt about the file ends that.

The probe spares the file only until a time that this engine moves on while it holds the file open, so its blocks
belong to no other file meanwhile. A killed engine leaves at most LEASE_SECONDS in which somebody could delete the file
and have its blocks used: the next engine sees another file, or none, marks those blocks, and they are sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rha.capture.capture import Capture
from rha.capture.spared import Spared, locate
from rha.errors import RhaError

LEASE_SECONDS = 5.0
LOOK_SECONDS = 1.0

Moved = Callable[[int, str], None]


class Sparing:
    """`on_moved(disk, evidence)`: writes of other files may have been missed; their blocks are pending already."""

    def __init__(self, capture: Capture, on_moved: Moved) -> None:
        self._capture, self._on_moved = capture, on_moved
        self._held: tuple[int, Path, Spared] | None = None
        self._next_look = 0.0

    def begin(self, file: int, path: Path) -> None:
        """Spares an open file. Raises StorageError when it may not be, OSError."""
        found, before = locate(file, path, self._capture.devices), self._capture.spared()
        if before != found:
            self.give_up(f"{path} is not where the spool was")
            self._capture.spare(found)
        self._held = (file, path, found)
        self.keep()

    def give_up(self, evidence: str) -> None:
        """Everything is captured from now on. What was spared is pending: it may have become another file's."""
        before = self._capture.spared()
        self._held = None
        if before is None:
            return
        blocks = self._capture.spared_blocks(before.disk)
        self._capture.spare(None)
        for first, count in blocks:
            self._capture.mark_pending(before.disk, first, count)
        self._on_moved(before.disk, evidence)

    def keep(self) -> str:
        """To be called several times in LEASE_SECONDS. Returns why the file is not spared any more; empty: it is, or
        none was."""
        if self._held is None:
            return ""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if why := self._why_moved(*self._held):
                self.give_up(why)
                return why
        self._capture.spare_until(time.monotonic_ns() + int(LEASE_SECONDS * 1e9))
        return ""

    def _why_moved(self, file: int, path: Path, known: Spared) -> str:
        try:
            if os.fstat(file).st_nlink == 0:
                return f"{path} was deleted"
            return "" if locate(file, path, self._capture.devices) == known else f"{path} lies elsewhere now"
        except (RhaError, OSError) as error:
            return f"{path}: {error.cause if isinstance(error, RhaError) else error}"
