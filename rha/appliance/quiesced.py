"""A bookmark at a clean state of the master: ordered of its engine, then found in the journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from rha.appliance.points import Bookmark
from rha.appliance.replica import Replica
from rha.errors import NetworkError, StateError
from rha.units import show_seconds

Order = Callable[..., Any]  # rha.appliance.daemon.Appliance.order
STREAM_SECONDS = 600.0  # for the stream to come as far as the position: a slow line, a ring full of writes
_Sentence = Annotated[str, msgspec.Meta(max_length=500)]


class Position(msgspec.Struct, kw_only=True):
    """What the engine answers (rha.engine.quiesce.Quiescer.run)."""

    lsn: int
    time: float
    by: Annotated[list[_Sentence], msgspec.Meta(min_length=1, max_length=200)]


def bookmark(replica: Replica, order: Order, name: str, by: str) -> Bookmark:
    """Has the master brought to a clean state and names it.

    Raises StateError when the name cannot be given, NetworkError when the stream does not come so far, and the engine's
    refusal; then there is no bookmark, and the master goes on as before.
    """
    replica.points.check_name(name)  # these two before the master is stopped for nothing
    replica.points.find("now")
    found = _position(order(replica.name, "quiesce", limit=None))
    if not replica.wait_durable(found.lsn, STREAM_SECONDS):
        raise NetworkError(
            "there is no bookmark: the stream has not come as far as the quiesced position",
            cause=f"LSN {found.lsn} is not here after {show_seconds(STREAM_SECONDS)}",
            hint=f"rha status; once it is, rha bookmark {replica.name} {name} --at {found.lsn} names that point",
        )
    place = replica.points.find(str(found.lsn))
    if place.lsn != found.lsn:
        raise StateError(
            "there is no bookmark: the quiesced position is no point",
            cause=f"the newest point before LSN {found.lsn} is LSN {place.lsn}",
            hint="rha status: have the disks left write order?",
        )
    return replica.points.add(
        Bookmark(name=name, lsn=found.lsn, time=found.time, created=time.time(), by=by, quiesced=found.by)
    )


def _position(answer: Any) -> Position:
    try:
        return msgspec.convert(answer, Position)
    except msgspec.ValidationError as error:
        raise StateError(
            "the engine's answer cannot be read", cause=str(error), hint="same version on both?"
        ) from error
