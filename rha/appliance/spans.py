"""When the images were a state of the master, and when not: for people who choose a point. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rha.appliance.stream import StreamState


class Change(msgspec.Struct, kw_only=True, frozen=True):
    """From this LSN on the images are a state of the master (`why` is empty) or are not. `position`: of the frame that
    said so; `time`: the master's clock, seconds since the epoch."""

    position: int
    lsn: int
    time: float
    why: str = ""


class Span(msgspec.Struct, kw_only=True, frozen=True):
    """A run of the window. `end_lsn`, `end_time`: None while it goes on. `why`: the reason why it holds no points."""

    lsn: int
    time: float
    end_lsn: int | None = None
    end_time: float | None = None
    why: str = ""


def follow(changes: Sequence[Change], state: StreamState, lsn: int, position: int, time: float) -> list[Change]:
    """The changes with what a control frame at this LSN has made of the disks; repeated frames change nothing."""
    known = [change for change in changes if change.position < position]
    if state.disks and all(disk.phase == "ordered" for disk in state.disks):
        lsn = max([lsn, *(disk.end_lsn for disk in state.disks)])
        why = ""
    else:
        why = state.why_not_consistent() or ""
    if known and bool(known[-1].why) == bool(why):
        return known
    return [*known, Change(position=position, lsn=lsn, time=time, why=why)]


def trimmed(changes: Sequence[Change], first_lsn: int) -> list[Change]:
    """Without what is of no use for a window that begins at this LSN."""
    newest_before = max((n for n, change in enumerate(changes) if change.lsn <= first_lsn), default=0)
    return list(changes[newest_before:])


def spans(changes: Sequence[Change], first_lsn: int, first_time: float) -> list[Span]:
    """The window's runs, oldest first."""
    kept = trimmed(changes, first_lsn)
    found = []
    for number, change in enumerate(kept):
        after = kept[number + 1] if number + 1 < len(kept) else None
        found.append(
            Span(
                lsn=max(change.lsn, first_lsn),
                time=first_time if change.lsn <= first_lsn else change.time,
                end_lsn=after.lsn if after else None,
                end_time=after.time if after else None,
                why=change.why,
            )
        )
    return found
