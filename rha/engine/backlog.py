"""What was captured and is not yet on the appliance: the spool first, where there is one, then the ring.

Ring space is given back when its records are on stable storage: the appliance's, or the spool's (docs/design.md).
"""

from __future__ import annotations

import threading

from rha.capture.capture import Capture
from rha.capture.ring import NO_LIMIT, Region, Ring, region_of
from rha.engine.spool import Chunk, Spool
from rha.errors import StorageError


class Backlog:
    """One thread reads (the session's), another spools; anybody may ask. Positions are the ring's."""

    def __init__(self, capture: Capture, spool: Spool | None = None) -> None:
        self._capture, self._ring, self.spool = capture, capture.ring, spool
        self._lock = threading.Lock()
        self._cursor = self.oldest
        self._at_hand: tuple[Chunk, bytes] | None = None  # the chunk last read back
        self.turn = 0  # changes when everything held is given up
        self.failure: StorageError | None = None  # of what was spooled: it cannot be shipped any more

    # What there is --------------------------------------------------------------------------------------------

    @property
    def oldest(self) -> int:
        """The oldest position that is still held."""
        spooled = self.spool.oldest if self.spool else None
        return self._ring.consumer if spooled is None else spooled

    @property
    def producer(self) -> int:
        return self._ring.producer

    @property
    def cursor(self) -> int:
        """Everything before was read."""
        return self._cursor

    @property
    def first_lsn(self) -> int:
        """The oldest LSN held; 0 while this generation has none."""
        return self._capture.lsn_base + self.oldest if self._capture.lsn_base else 0

    @property
    def oldest_time_ns(self) -> int:
        """CLOCK_MONOTONIC at the submission of the oldest record, in ns; 0 when there is none."""
        return (self.spool.oldest_time_ns if self.spool else 0) or self._ring.oldest_time_ns

    @property
    def ring_used(self) -> float:
        """How full the ring is, 0 to 1."""
        return (self._ring.producer - self._ring.consumer) / self._ring.bytes

    @property
    def used(self) -> float:
        """The same; 1 while something is spooled: until that has gone a sync would only wait behind it."""
        return 1.0 if self.spool and self.spool.used_bytes else self.ring_used

    # Reading --------------------------------------------------------------------------------------------------

    def seek(self, position: int) -> None:
        """Moves the cursor to a record's beginning that was not released."""
        self._cursor = position

    def end_of_next(self, max_bytes: int, limit: int = NO_LIMIT) -> int:
        """Where the region that `next` would give ends. Raises StorageError."""
        with self._lock:
            return self._find(max_bytes, limit).end

    def next(self, max_bytes: int, limit: int = NO_LIMIT) -> Region:
        """As `Ring.next`, wherever the records stand now. With a spool the region is a copy: its place in the ring may
        be given back while it is sent.

        Raises StorageError when the records cannot be read; `failure` says so then.
        """
        with self._lock:
            region = self._find(max_bytes, limit)
            self._cursor = region.end
            return region._replace(data=memoryview(bytes(region.data))) if self.spool else region

    def _find(self, max_bytes: int, limit: int) -> Region:
        chunk = self.spool.find(self._cursor) if self.spool else None
        if chunk:
            return self._from_spool(chunk, max_bytes, limit)
        self._ring.seek(self._cursor)
        return self._ring.next(max_bytes, limit)

    def _from_spool(self, chunk: Chunk, max_bytes: int, limit: int) -> Region:
        assert self.spool is not None
        try:
            if self._at_hand is None or self._at_hand[0] != chunk:
                self._at_hand = chunk, self.spool.read(chunk)
            region = region_of(self._at_hand[1], chunk.begin, self._cursor, max_bytes, limit)
            if region.end == self._cursor < limit:
                raise StorageError("a run of records is damaged", cause=f"it does not go on at {self._cursor}")
            return region
        except StorageError as error:
            self.failure = error
            raise

    # Giving back ----------------------------------------------------------------------------------------------

    def release(self, position: int) -> None:
        """The appliance holds everything before on stable storage."""
        with self._lock:
            if self.spool:
                self.spool.release(position)
            self._ring.release(position)

    # Spooling -------------------------------------------------------------------------------------------------

    def next_to_spool(self, reader: Ring, max_bytes: int) -> Region:
        """What stands in the ring behind the cursor of a second reader, as a copy; what was given back is passed
        over."""
        with self._lock:
            reader.seek(max(reader.cursor, self._ring.consumer))
            region = reader.next(max_bytes)
            return region._replace(data=memoryview(bytes(region.data)))

    @property
    def ring_begin(self) -> int:
        """The oldest position that stands in the ring."""
        return self._ring.consumer

    def room(self, begin: int, pending: int) -> int:
        """Bytes that may be written to the spool behind position `begin`, of which `pending` chunks were written
        already."""
        with self._lock:
            return self.spool.room(begin, pending) if self.spool else 0

    def spooled(self, chunks: list[Chunk], turn: int) -> None:
        """These are on stable storage in the spool: their space in the ring is free."""
        with self._lock:
            if turn != self.turn or self.spool is None:
                return
            for chunk in chunks:
                if chunk.end > self._ring.consumer:  # else the appliance has it by now
                    self.spool.add(chunk)
                    self._ring.release(chunk.end)

    def renew(self, floor: int) -> None:
        """Begins another generation, its LSNs above `floor`; what is held is given up (`Capture.renew`)."""
        with self._lock:
            self._capture.renew(floor)
            self.turn += 1
            self.failure, self._at_hand = None, None
            if self.spool:
                self.spool.clear(self._capture.generation)
            self._cursor = self._ring.consumer
