"""Asking the appliance which blocks of its image differ from what was just read here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from rha.engine.outbox import Bulk, Outbox
from rha.errors import StateError
from rha.sync.blocks import BLOCK_BYTES, UNITS, digests
from rha.sync.plan import Piece
from rha.wire import frames
from rha.wire.frames import FrameType

H = TypeVar("H")
UNDER_WAY = 12  # pieces asked about and kept until their answer, 1 MiB each


class Answered(NamedTuple, Generic[H]):
    """One piece with its answer. `unit`: of what it was asked, in bytes; `flags`: one byte for each: EQUAL, or how disk
    and image differ (rha/sync/blocks.py); `holder`: as it was given."""

    disk: int
    unit: int
    piece: Piece
    holder: H
    view: memoryview
    flags: bytes


class Comparer(Generic[H]):
    """One thread asks and takes what was answered; the session thread brings the answers. `what`: for whom, in the
    refusal after an `abort`."""

    def __init__(self, outbox: Outbox, what: str = "the comparison") -> None:
        self._outbox, self._what = outbox, what
        self._asked: dict[tuple[int, int], tuple[int, Piece, H, memoryview]] = {}
        self._done: list[Answered[H]] = []
        self._changed = threading.Condition()
        self._aborted: str | None = None

    def ask(self, disk: int, piece: Piece, holder: H, view: memoryview, unit: int = BLOCK_BYTES) -> None:
        """Sends the digests of a piece; blocks while too many are under way. `holder`: of the memory of `view`, comes
        back with the answer. Raises StateError when aborted."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._asked) < UNDER_WAY)
            self.check()
            self._asked[disk, piece.offset] = (unit, piece, holder, view)
        mine, kind = digests(view, unit), next(flag for flag, bytes_ in UNITS.items() if bytes_ == unit)
        self._outbox.put(Bulk(FrameType.HASHES, disk, piece.offset, frames.pad(mine), len(mine), kind, lambda: None))

    def answer(self, disk: int, offset: int, flags: bytes) -> None:
        """The appliance's answer. One that nobody asked for, or of the wrong length, is ignored: the piece stays open,
        and the silence is noticed by whoever waits for it."""
        with self._changed:
            asked = self._asked.get((disk, offset))
            if asked and len(flags) == -(-asked[1].length // asked[0]):
                del self._asked[disk, offset]
                self._done.append(Answered(disk, *asked, flags))
                self._changed.notify_all()

    def answered(self, *, all: bool = False) -> Iterator[Answered[H]]:
        """Takes what was answered so far; with `all`, waits for every piece under way. Raises StateError when
        aborted."""
        with self._changed:
            if all:
                self._changed.wait_for(lambda: self._aborted or not self._asked)
            self.check()
            done, self._done = self._done, []
        yield from done

    def abort(self, why: str) -> None:
        """Ends what is being done soon: whoever waits, asks or checks gets StateError. Any thread."""
        with self._changed:
            self._aborted = why
            self._changed.notify_all()

    def check(self) -> None:
        """Raises StateError when aborted."""
        if self._aborted:
            raise StateError(f"{self._what} was broken off", cause=self._aborted)


def runs(flags: bytes) -> Iterator[tuple[int, int, bool]]:
    """Runs of equal answers: (first block, count, differs)."""
    start = 0
    for at in range(1, len(flags) + 1):
        if at == len(flags) or flags[at] != flags[start]:
            yield start, at - start, bool(flags[start])
            start = at
