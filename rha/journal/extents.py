"""Runs of ring records checked, and batches of writes reduced to what an image needs (csrc/extents.c)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rha._native import ffi, lib
from rha.errors import StorageError
from rha.hashing import Buffer

DATA: int = lib.RHA_EXTENT_DATA
ZEROS: int = lib.RHA_EXTENT_ZEROS

# struct rha_extent. A batch has up to 16 Ki rows: never an object for each on the way to the image.
_ROW = np.dtype(
    [("offset", "<u8"), ("length", "<u8"), ("data", "<u8"), ("disk", "<u2"), ("kind", "u1"), ("unused", "V5")]
)
Table = npt.NDArray[np.void]  # of such rows

_WHY = {
    lib.RHA_BATCH_CUT: "a record reaches beyond the end of its frame",
    lib.RHA_BATCH_BUSY: "a record that the probe had not finished",
    lib.RHA_BATCH_LENGTH: "a record's length does not fit its kind",
    lib.RHA_BATCH_OP: "an operation that does not exist",
    lib.RHA_BATCH_DISK: "a disk that the scenario does not have",
    lib.RHA_BATCH_RANGE: "a range beyond the end of its disk",
    lib.RHA_BATCH_ALIGNMENT: "a length that is no multiple of 512",
    lib.RHA_BATCH_NO_MEMORY: "no memory",
}


class BadRecords(StorageError):
    """A run of records that cannot be what a probe wrote."""


class Run(NamedTuple):
    """What a run of ring records holds. `payload_bytes`: of writes; `time_ns`: of the last record, the sender's
    CLOCK_MONOTONIC, 0 when there is none; `discarded`: ring reservations that the probe gave up."""

    records: int
    discarded: int
    payload_bytes: int
    time_ns: int


class Extent(NamedTuple):
    """`length` bytes at `offset` of a disk: DATA, found at `data` in the batch's buffer, or ZEROS."""

    disk: int
    kind: int
    offset: int
    length: int
    data: int


def table(extents: Iterable[Extent]) -> Table:
    """The extents as rows."""
    return np.array([(e.offset, e.length, e.data, e.disk, e.kind, b"") for e in extents], _ROW)


def rows(found: Table) -> Iterator[Extent]:
    """The rows as extents."""
    for offset, length, data, disk, kind, _ in found.tolist():
        yield Extent(disk, kind, offset, length, data)


def by_disk(found: Table) -> Iterator[tuple[int, Table]]:
    """Rows that are sorted by disk: each disk that has any, and its rows."""
    ends = np.flatnonzero(np.diff(found["disk"])) + 1
    for part in np.split(found, ends) if len(found) else ():
        yield int(part["disk"][0]), part


def check_records(run: Buffer, disk_bytes: Sequence[int]) -> Run:
    """Checks a run of ring records against disks of these sizes (bytes), before it goes into a journal.

    Raises BadRecords.
    """
    found = ffi.new("struct rha_run *")
    sizes = ffi.new("uint64_t[]", list(disk_bytes))
    view = ffi.from_buffer(run)
    _raise_on(lib.rha_run_check(view, len(view), len(disk_bytes), sizes, found), found.offset)
    return _run(found)


class Batch:
    """Writes in their order, to be reduced to non-overlapping extents; the last writer of every byte wins.

    Buffers that are added are kept, and must not change, until `clear`.
    """

    def __init__(self, disk_bytes: Sequence[int]) -> None:
        """For disks of these sizes in bytes, at most 16."""
        handle = lib.rha_batch_new(len(disk_bytes), ffi.new("uint64_t[]", list(disk_bytes)))
        if not handle:
            raise ValueError(f"{len(disk_bytes)} disks: more than a scenario may have, or no memory")
        self._handle = ffi.gc(handle, lib.rha_batch_free)
        self._held: list[Any] = []

    def add_records(self, run: Buffer) -> Run:
        """Adds a run of ring records, all or nothing. Raises BadRecords."""
        found = ffi.new("struct rha_run *")
        view = ffi.from_buffer(run)
        _raise_on(lib.rha_batch_add_records(self._handle, view, len(view), found), found.offset)
        self._held.append(view)
        return _run(found)

    def add_range(self, disk: int, offset: int, data: Buffer) -> None:
        """Adds a write of `data` at a byte offset. Raises BadRecords."""
        view = ffi.from_buffer(data)
        _raise_on(lib.rha_batch_add_range(self._handle, disk, offset, view, len(view)), offset)
        self._held.append(view)

    def add_zeros(self, disk: int, offset: int, length: int) -> None:
        """Adds a range that reads as zeros afterwards. Raises BadRecords."""
        _raise_on(lib.rha_batch_add_zeros(self._handle, disk, offset, length), offset)

    def reduce(self) -> tuple[Table, memoryview]:
        """The extents, sorted by disk and offset, and the buffer that their `data` counts in; both valid until `clear`.

        Raises BadRecords without memory.
        """
        _raise_on(lib.rha_batch_reduce(self._handle), 0)
        count, length = ffi.new("size_t *"), ffi.new("size_t *")
        first = lib.rha_batch_extents(self._handle, count)
        data = lib.rha_batch_data(self._handle, length)
        found = np.frombuffer(ffi.buffer(first, count[0] * _ROW.itemsize) if count[0] else b"", _ROW)
        return found, memoryview(ffi.buffer(data, length[0]) if length[0] else b"")

    def clear(self) -> None:
        """Empties the batch and lets go of its buffers; its memory stays for the next one."""
        lib.rha_batch_clear(self._handle)
        self._held.clear()


def _run(found: Any) -> Run:
    return Run(found.records, found.discarded, found.payload_bytes, found.time_ns)


def _raise_on(error: int, offset: int) -> None:
    if error:
        raise BadRecords("records refused", cause=f"{_WHY[error]} (at byte {offset})")
