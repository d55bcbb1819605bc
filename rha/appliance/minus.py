"""The minus rule: a resync range never replaces what the stream has written since the epoch mark.

A captured write may still have been on its way to the disk when the range was read; the stream is newer than any read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rha._native import ffi, lib
from rha.errors import StorageError

SECTOR = 512


class WrittenSectors:
    """Sectors of one disk that the stream has written since the mark. Memory: 8 bytes per MiB of disk, and 256 bytes
    per MiB that was written in part. Raises StorageError without memory."""

    def __init__(self, disk: int, disk_bytes: int) -> None:
        self._disk = disk
        created = lib.rha_sectors_new(disk_bytes)
        if created == ffi.NULL:
            raise _no_memory()
        self.handle: Any = ffi.gc(created, lib.rha_sectors_free)  # rha_sectors *

    def add_records(self, run: bytes | bytearray | memoryview) -> None:
        """Adds what a checked run of records changes on this disk."""
        if lib.rha_sectors_add_run(self.handle, self._disk, ffi.from_buffer(run), len(run)):
            raise _no_memory()

    def add_range(self, offset: int, length: int) -> None:
        """Adds a byte range, whole sectors; what lies beyond the disk is left out."""
        if lib.rha_sectors_add(self.handle, offset // SECTOR, (offset + length) // SECTOR):
            raise _no_memory()

    def without(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of a byte range that the stream has not written: (offset, length), ascending. Whole sectors."""
        first, at, end = ffi.new("uint64_t *"), offset // SECTOR, (offset + length) // SECTOR
        while count := lib.rha_sectors_next_absent(self.handle, at, end, first):
            yield int(first[0]) * SECTOR, int(count) * SECTOR
            at = int(first[0]) + int(count)


def _no_memory() -> StorageError:
    return StorageError("no memory for the minus rule", cause="malloc failed", hint="free -m")
