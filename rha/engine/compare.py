"""Asking the appliance which blocks of its image differ from what was just read here."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from typing import NamedTuple

from rha.engine.outbox import Bulk, Outbox
from rha.errors import StateError
from rha.sync.blocks import digests
from rha.sync.plan import Piece
from rha.wire import frames
from rha.wire.frames import FrameType

UNDER_WAY = 12  # pieces asked about and kept until their answer, 1 MiB each


class Answered(NamedTuple):
    """One piece with its answer. `flags`: one byte per 64 KiB block, 1 where disk and image differ."""

    disk: int
    piece: Piece
    buffer: mmap.mmap
    view: memoryview
    flags: bytes


class Comparer:
    """One thread asks and takes what was answered; the session thread brings the answers."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._asked: dict[tuple[int, int], tuple[Piece, mmap.mmap, memoryview]] = {}
        self._done: list[Answered] = []
        self._changed = threading.Condition()
        self._aborted: str | None = None

    def ask(self, disk: int, piece: Piece, buffer: mmap.mmap, view: memoryview) -> None:
        """Sends the digests of a piece; blocks while too many are under way. Raises StateError when aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._asked) < UNDER_WAY)
            self._refuse_if_aborted()
            self._asked[disk, piece.offset] = (piece, buffer, view)
        mine = digests(view)
        self._outbox.put(Bulk(FrameType.HASHES, disk, piece.offset, frames.pad(mine), len(mine), 0, lambda: None))

    def answer(self, disk: int, offset: int, flags: bytes) -> None:
        """The appliance's answer. One that nobody asked for, or of the wrong length, is ignored: the piece stays open,
        and the silence is noticed by whoever waits for it."""
        with self._changed:
            asked = self._asked.get((disk, offset))
            if asked and len(flags) == asked[0].blocks:
                del self._asked[disk, offset]
                self._done.append(Answered(disk, *asked, flags))
                self._changed.notify_all()

    def answered(self, *, all: bool = False) -> Iterator[Answered]:
        """Takes what was answered so far; with `all`, waits for every piece under way. Raises StateError when
        aborted."""
        with self._changed:
            if all:
                self._changed.wait_for(lambda: self._aborted or not self._asked)
            self._refuse_if_aborted()
            done, self._done = self._done, []
        yield from done

    def abort(self, why: str) -> None:
        """Whoever waits gets StateError."""
        with self._changed:
            self._aborted = why
            self._changed.notify_all()

    def _refuse_if_aborted(self) -> None:
        if self._aborted:
            raise StateError("the comparison was broken off", cause=self._aborted)


def runs(flags: bytes) -> Iterator[tuple[int, int, bool]]:
    """Runs of equal answers: (first block, count, differs)."""
    start = 0
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            yield start, at - start, bool(flags[start])
            start = at
