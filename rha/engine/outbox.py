"""What travels besides captured records: frames that stand at a fixed place of the stream, and bulk data of a sync."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rha.errors import StateError
from rha.wire.frames import FrameType


@dataclass(frozen=True)
class Insert:
    """A control frame that stands in the stream at ring position `position`. `sent` is called when it is on its way."""

    position: int
    type: FrameType
    message: object
    sent: Callable[[], None]
    acknowledged: Callable[[], None]


@dataclass(frozen=True)
class Bulk:
    """A frame of sync data: `payload` padded to 8. `arrived` is called when the appliance has acknowledged it."""

    type: FrameType
    disk: int
    offset: int
    payload: bytes | bytearray | memoryview
    raw_length: int
    flags: int
    arrived: Callable[[], None]


class Outbox:
    """Between the sync thread, which fills it, and the session thread, which empties it. Bounded in bytes."""

    def __init__(self, max_bytes: int = 16 << 20) -> None:
        self._max = max_bytes
        self._bulk: deque[Bulk] = deque()
        self._inserts: list[Insert] = []
        self._unacknowledged = 0
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, bulk: Bulk) -> None:
        """Adds sync data; blocks while `max_bytes` are under way and not acknowledged.

        Raises StateError when the session ended.
        """
        size = len(bulk.payload)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._bytes == 0 or self._bytes + size <= self._max)
            self._refuse_if_closed()
            self._bulk.append(bulk)
            self._bytes += size
            self._unacknowledged += 1

    def insert(self, frame: Insert) -> None:
        """Adds a frame at its place. Raises StateError when the session ended."""
        with self._changed:
            self._refuse_if_closed()
            self._inserts.append(frame)
            self._inserts.sort(key=lambda one: one.position)

    def wait_empty(self) -> None:
        """Blocks until all sync data put so far is acknowledged. Raises StateError when the session ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._unacknowledged == 0)
            self._refuse_if_closed()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StateError("the session ended", cause="the link to the appliance is gone")

    # The session's side ---------------------------------------------------------------------------------------

    def next_insert(self) -> Insert | None:
        with self._changed:
            return self._inserts[0] if self._inserts else None

    def pop_insert(self) -> Insert:
        with self._changed:
            return self._inserts.pop(0)

    def next_bulk(self) -> Bulk | None:
        with self._changed:
            return self._bulk[0] if self._bulk else None

    def pop_bulk(self) -> Bulk | None:
        with self._changed:
            return self._bulk.popleft() if self._bulk else None

    def acknowledged(self, bulk: Bulk) -> None:
        """The appliance has it on stable storage."""
        bulk.arrived()
        with self._changed:
            self._bytes -= len(bulk.payload)
            self._unacknowledged -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever waits or puts from now on gets StateError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
