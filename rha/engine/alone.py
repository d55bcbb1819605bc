"""What this master has written alone, for an appliance that may have put a substitute in its place meanwhile.

Counted before each greeting from what stands in the ring. What the spool holds is known by its length only: reading it
back would cost as long as sending it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from rha.capture.capture import Capture
from rha.engine.backlog import Backlog
from rha.engine.spooler import first_time
from rha.engine.state import Cause, DiskView, state_of
from rha.errors import StorageError
from rha.wire.messages import MOST_SENTENCE, Alone, AloneDisk

REGION_BYTES = 1 << 20


class Count(NamedTuple):
    """Records in the ring. `first_ns`, `last_ns`: CLOCK_MONOTONIC of their submission; 0: there is none."""

    records: int = 0
    payload_bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0


def alone(capture: Capture, backlog: Backlog, views: Sequence[DiskView]) -> Alone:
    """What was captured and not acknowledged, as far as it is known."""
    oldest, end = backlog.oldest, backlog.producer
    base = capture.lsn_base
    found = None if backlog.oldest < backlog.ring_begin else _count(capture, backlog, end)
    first = backlog.oldest_time_ns or (found.first_ns if found else 0)
    return Alone(
        acknowledged_lsn=base + oldest if base else 0,
        lsn=base + end if base else 0,
        records=found.records if found else None,
        payload_bytes=found.payload_bytes if found else None,
        first=_moment(first) if end > oldest else None,
        last=_moment(found.last_ns) if found else None,
        disks=[_disk(view) for view in views],
    )


def _count(capture: Capture, backlog: Backlog, end: int) -> Count | None:
    """Walks the ring up to a position. None when that cannot be: a damaged ring is told by whoever ships it."""
    reader, total = capture.second_reader(), Count()
    try:
        reader.seek(backlog.ring_begin)
        while reader.cursor < end:
            region = backlog.next_to_spool(reader, REGION_BYTES)
            if region.begin == region.end:  # a record is being written
                break
            total = Count(
                total.records + region.records,
                total.payload_bytes + region.payload_bytes,
                total.first_ns or first_time(region),
                region.last_time_ns or total.last_ns,
            )
    except StorageError:
        return None
    finally:
        reader.close()
    return total


def _moment(monotonic_ns: int) -> float | None:
    """A time of CLOCK_MONOTONIC by this host's clock."""
    return time.time() - (time.monotonic_ns() - monotonic_ns) / 1e9 if monotonic_ns else None


def _disk(view: DiskView) -> AloneDisk:
    """Order was lost where the disk is not in data mode, or a gap stands in its stream."""
    if view.trouble or not view.is_trusted:
        since = _since(view.trouble or view.cause)
        return AloneDisk(name=view.name, state="unknown", why=state_of(view).why[:MOST_SENTENCE], since=since)
    if view.in_data_mode and view.cause is None and not view.dirty_bytes:
        return AloneDisk(name=view.name, state="ordered")
    why = view.cause.sentence if view.cause else "a sync was broken off"
    return AloneDisk(
        name=view.name,
        state="marked",
        dirty_bytes=view.dirty_bytes,
        since=_since(view.cause),
        why=why[:MOST_SENTENCE],
    )


def _since(cause: Cause | None) -> float | None:
    return cause.time if cause and cause.time else None
