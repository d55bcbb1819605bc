"""Which points there are, and which one is meant. Reads the journal's headers, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from rha._native import ffi, lib
from rha.appliance.history import Interval
from rha.appliance.stream import StreamState, decode, fold, state_at
from rha.errors import StateError, StorageError
from rha.journal import reader
from rha.journal.extents import check_records
from rha.journal.segment import Journal
from rha.pointsview import place as shown
from rha.units import parse_seconds, show_seconds
from rha.wire.frames import FrameType
from rha.wire.messages import Return, Rewind

_LSN_DIGITS = 19
_LATEST_NS = (1 << 64) - 1
BOOKMARK_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}")


class Bookmark(msgspec.Struct, kw_only=True, frozen=True):
    """A named LSN. `time`: the master's clock there; `created`, `by`: when and by whom it was set. `quiesced`: what was
    brought to a clean state on the master for it, in sentences; empty: nothing, as a power cut would leave it."""

    name: str
    lsn: int
    time: float
    created: float
    by: str = ""
    quiesced: list[str] = []


class Wanted(NamedTuple):
    """What a person asked for; exactly one of the two is valid, both None: the newest point."""

    lsn: int | None = None
    time: float | None = None


class Place(NamedTuple):
    """A point in the journal: everything from the interval's beginning up to `position`, and of the frame that stands
    there the first `prefix` bytes. `lsn`, `time` (the master's clock, seconds since the epoch): of the last record."""

    interval: Interval
    position: int
    prefix: int
    lsn: int
    time: float


def parse(text: str, bookmarks: Sequence[Bookmark], now: float) -> Wanted:
    """`now`, an LSN, a bookmark's name, a duration (so long ago), or a time of ISO 8601, local when it names no zone.

    Raises StateError when it is none of these.
    """
    if text == "now":
        return Wanted()
    if text.isdecimal() and len(text) <= _LSN_DIGITS:
        return Wanted(lsn=int(text))
    for bookmark in bookmarks:
        if bookmark.name == text:
            return Wanted(lsn=bookmark.lsn)
    try:
        return Wanted(time=now - parse_seconds(text))
    except (ValueError, OverflowError):
        pass
    try:
        return Wanted(time=datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        known = ", ".join(bookmark.name for bookmark in bookmarks) or "none"
        raise StateError(
            f"{text!r} is no point",
            cause=f"neither an LSN, nor a time, nor a bookmark (there are: {known})",
            hint="write for example 2026-11-24T03:00:00, 10min (ago), 123456789 (an LSN), now, or a bookmark's name",
        ) from None


def find(intervals: Sequence[Interval], journal: Journal, wanted: Wanted, *, now: float) -> Place:
    """The newest point at or before what is wanted. `now`: this host's clock.

    Raises StateError when it lies outside the window, or the disks were in no consistent state there; StorageError when
    the journal cannot be read.
    """
    if not intervals:
        raise StateError("there are no points", cause="no consistent state was reached yet, or undo was lost")
    if wanted.time is not None and wanted.time > now:
        raise StateError("the point lies in the future", cause=f"{show_seconds(wanted.time - now)} from now")
    why = ""
    for index in range(len(intervals) - 1, -1, -1):
        if not _begins_before(intervals[index], wanted):
            continue
        end = intervals[index + 1].head.before_end if index + 1 < len(intervals) else journal.durable
        walk = _Walk(intervals[index], wanted)
        walk.follow(journal, end)
        if walk.best:
            return walk.best
        why = why or walk.why
        if walk.has_moved:
            break
    if why:
        raise StateError("the disks were no state of the master there", cause=why, hint="rha points")
    first = intervals[0].head.start
    raise StateError(
        "the point has left the window",
        cause=f"the oldest one is {shown(first.lsn, first.time_ns / 1e9)}",
        hint="rha points; a longer window: window and window_bytes in appliance.toml",
    )


def _begins_before(interval: Interval, wanted: Wanted) -> bool:
    start = interval.head.start
    if wanted.lsn is not None:
        return start.lsn <= wanted.lsn
    return wanted.time is None or start.time_ns / 1e9 <= wanted.time


class _Walk:
    """Folds an interval's frames up to what is wanted. `best`: the last place without a record behind it that is still
    wanted, iff the disks were consistent there; else `why` they were not. `has_moved`: records were passed."""

    def __init__(self, interval: Interval, wanted: Wanted) -> None:
        head = interval.head
        self.best: Place | None = None
        self.why = ""
        self.has_moved = False
        self._interval, self._wanted = interval, wanted
        self._state = head.stream
        self._time_ns = int(head.stream.shown_time * 1e9) if head.stream.is_rewound else head.start.time_ns
        self._disk_bytes = [disk.bytes for disk in head.stream.disks]
        self._stand(head.start.position, 0, state_at(head.stream, head.start.lsn))

    def follow(self, journal: Journal, end: int) -> None:
        for place in journal.scan(self._interval.head.start.position, end):
            if not self._step(place):
                return

    def _stand(self, position: int, prefix: int, state: StreamState) -> None:
        """A place where the walk might end."""
        self._state = state
        why = state.why_not_consistent()
        if why is None:
            self.best = Place(self._interval, position, prefix, state.lsn, self._time_ns / 1e9)
        elif self.best and self.best.lsn != state.lsn:
            self.best = None
        self.why = why or ""

    def _step(self, place: reader.Place) -> bool:
        """One frame further. False: this frame is behind what is wanted, in part at least."""
        header, wanted = place.header, self._wanted
        if header.type is FrameType.REWIND:  # what follows it is the next interval's
            return False
        if header.type is not FrameType.RECORDS:
            if wanted.lsn is not None and header.lsn > wanted.lsn:
                return False
            message = decode(header, place.entry().payload)
            if isinstance(message, Return):
                if wanted.time is not None and message.time > wanted.time:
                    return False
                self._time_ns = int(message.time * 1e9)
            self._stand(place.next_position, 0, fold(self._state, header, message, redo=True))
            return True
        whole = _is_whole(header.lsn + header.raw_length, header.time_ns, wanted)
        prefix = header.raw_length if whole else self._prefix(place)
        if prefix:
            self.has_moved = True
            state = msgspec.structs.replace(self._state, next_lsn=header.lsn + prefix)
            self._stand(place.next_position if whole else place.position, 0 if whole else prefix, state)
        if whole:
            self._time_ns = max(self._time_ns, header.time_ns)
        return whole

    def _prefix(self, place: reader.Place) -> int:
        """How much of a frame of records is still wanted."""
        entry, wanted = place.entry(), self._wanted
        header, payload = entry.header, entry.payload[: entry.header.raw_length]
        last = check_records(payload, self._disk_bytes).time_ns
        limit, until = header.raw_length, 0
        if wanted.lsn is not None:
            limit = max(0, wanted.lsn - header.lsn)
        elif wanted.time is not None:
            until = min(max(1, last - (header.time_ns - int(wanted.time * 1e9))), _LATEST_NS)
        prefix = int(lib.rha_run_prefix(ffi.from_buffer(payload), len(payload), limit, until))
        if prefix:
            reached = check_records(payload[:prefix], self._disk_bytes).time_ns
            self._time_ns = max(self._time_ns, header.time_ns - (last - reached))
        return prefix


def _is_whole(end_lsn: int, time_ns: int, wanted: Wanted) -> bool:
    if wanted.lsn is not None:
        return end_lsn <= wanted.lsn
    return wanted.time is None or time_ns / 1e9 <= wanted.time


def place_of(message: Rewind, intervals: Sequence[Interval]) -> Place:
    """The point that a rewind goes back to. Raises StorageError when it is not kept any more."""
    for interval in intervals:
        if interval.head.start.position == message.start:
            return Place(interval, message.position, message.prefix, message.lsn, message.time)
    raise StorageError("the point has left the window", cause=f"LSN {message.lsn} was to be rewound to")


def check_name(name: str, taken: Iterable[Bookmark]) -> None:
    """Raises StateError when a bookmark cannot be called this."""
    if not BOOKMARK_NAME.fullmatch(name) or name == "now":
        raise StateError(
            f"{name!r} cannot be a bookmark's name",
            cause="a name begins with a small letter; small letters, digits, '.', '_' and '-' follow, at most 63",
        )
    if any(bookmark.name == name for bookmark in taken):
        raise StateError(f"the bookmark {name} exists already", hint="rha points; choose another name")
