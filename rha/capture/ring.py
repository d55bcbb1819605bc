"""The ring as the engine reads it: regions of committed records, in order, left in place until released."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from rha._native import ffi, lib
from rha.errors import StorageError


class Region(NamedTuple):
    """Committed records in ring memory. `begin` and `end` are ring positions in bytes; `data` is valid until released;
    `last_time_ns`: CLOCK_MONOTONIC at the submission of the last record, 0 when there is none."""

    begin: int
    end: int
    data: memoryview
    records: int
    payload_bytes: int
    last_time_ns: int


NO_LIMIT = (1 << 64) - 1


def region_of(run: bytes, begin: int, at: int, max_bytes: int, limit: int = NO_LIMIT) -> Region:
    """As `Ring.next`, from position `at`, in a copy of committed records of which the first stands at `begin`.

    Raises StorageError when the run makes no sense.
    """
    region, view = ffi.new("rha_region *"), ffi.from_buffer(run)
    if lib.rha_run_next(view, begin, begin + len(run), at, max_bytes, limit, region) != 0:
        raise StorageError(
            "a run of records is damaged", cause=f"behind position {at} of {begin} to {begin + len(run)}"
        )
    data = memoryview(run)[region.begin - begin : region.end - begin]
    return Region(region.begin, region.end, data, region.records, region.payload_bytes, region.last_time)


class Ring:
    """Reader of one BPF ring buffer map of `bytes` bytes. One thread reads; any thread may release.

    Raises OSError when the map cannot be mapped.
    """

    def __init__(self, map_fd: int, bytes: int) -> None:
        self.bytes = bytes
        self._ring: Any = lib.rha_ring_open(map_fd, bytes)
        if self._ring == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self._region = ffi.new("rha_region *")

    def close(self) -> None:
        """Unmaps the ring; views handed out before must not be used any more."""
        lib.rha_ring_close(self._ring)
        self._ring = ffi.NULL

    def next(self, max_bytes: int, limit: int = NO_LIMIT) -> Region:
        """The committed records behind the cursor, at most `max_bytes` of them and none from `limit` on.

        Raises StorageError when the ring makes no sense: a bug, or somebody else wrote to it.
        """
        if lib.rha_ring_next(self._ring, max_bytes, limit, self._region) != 0:
            raise StorageError(
                "the ring is damaged",
                cause=f"at position {self.cursor}, producer {self.producer}",
                hint="rha engine --scenario FILE --unload, then start it again: it compares everything",
            )
        region = self._region
        length = region.end - region.begin
        return Region(
            region.begin,
            region.end,
            memoryview(ffi.buffer(region.data, length)) if length else memoryview(b""),
            region.records,
            region.payload_bytes,
            region.last_time,
        )

    def wait(self, seconds: float, poll_seconds: float = 0.001) -> bool:
        """True as soon as something stands behind the cursor; False after `seconds`. Releases Python's lock."""
        return bool(lib.rha_ring_wait(self._ring, int(seconds * 1e6), int(poll_seconds * 1e6)))

    def release(self, position: int) -> None:
        """Gives the space before `position` back to the kernel."""
        lib.rha_ring_release(self._ring, position)

    def seek(self, position: int) -> None:
        """Moves the cursor; `position` must be a record's beginning that was not released."""
        lib.rha_ring_seek(self._ring, position)

    @property
    def oldest_time_ns(self) -> int:
        """CLOCK_MONOTONIC at the submission of the oldest record, in ns; 0 when there is none."""
        return int(lib.rha_ring_oldest_time(self._ring))

    @property
    def cursor(self) -> int:
        return int(lib.rha_ring_cursor(self._ring))

    @property
    def consumer(self) -> int:
        """Everything before this position was released."""
        return int(lib.rha_ring_consumer(self._ring))

    @property
    def producer(self) -> int:
        """Everything before this position was reserved by the probe."""
        return int(lib.rha_ring_producer(self._ring))
