"""What must be in the images before a question about a range of them is answered. Pure.

Everything of the stream that stood before the question, but for sync data of other ranges: it can say nothing about
this one. So a comparison that finds differences goes on while they are made durable and applied; waiting for each cost
twice the time of the whole comparison where 1 % of a disk differed.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rha.wire import frames
from rha.wire.frames import FrameType, Header

MOST_RANGES = 256  # kept apart; of older ones all are waited for, which are long applied as a rule


class _Range(NamedTuple):
    position: int
    disk: int
    begin: int
    end: int


class Before:
    """Positions are those of the journal."""

    def __init__(self, position: int) -> None:
        """Everything below `position` counts."""
        self._all = position
        self._ranges: deque[_Range] = deque()

    def taken(self, header: Header, payload: memoryview, position: int) -> None:
        """A frame was taken into the journal, which ends at `position` behind it."""
        if header.type is not FrameType.RESYNC or (header.codec and header.flags & frames.FLAG_ZEROS):
            self._all = position
            self._ranges.clear()
            return
        length = frames.zeros_length(payload) if header.flags & frames.FLAG_ZEROS else header.raw_length
        self._ranges.append(_Range(position, header.disk, header.offset, header.offset + length))
        if len(self._ranges) > MOST_RANGES:
            self._all = self._ranges.popleft().position

    def position_for(self, disk: int, offset: int, length: int) -> int:
        """The images show this range as the stream has it here, once everything below this is applied."""
        end = offset + length
        for one in reversed(self._ranges):
            if one.disk == disk and one.begin < end and offset < one.end:
                return one.position
        return self._all
