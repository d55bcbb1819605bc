"""Writing into an image's file and reading from it past the storage daemon that serves it, where the image already has
the cluster.

QEMU keeps tables in memory and data in none: a data cluster's bytes are only in the file, through the same page cache
that its reads go through. So a write to the place of a cluster is seen by QEMU at once, as long as that place is still
the cluster's. Why it is:

- A table entry in the file says where a cluster lies. QEMU writes the entry after the cluster has its place and its
  surroundings (copied from a backing file, or zeros). Entries that are in QEMU's memory only are not seen here: those
  clusters take the way through QEMU.
- A cluster loses its place when its range is zeroed or discarded, and only the holder of this object does that. Until
  the next flush, which brings the tables into the file, everything that the same table covers goes through QEMU.
- Nothing else holds the cluster: the entry's COPIED flag is set and the image has no snapshots. It is not compressed,
  and not one that reads as zeros.
- The image's own changes of shape (an overlay put on top, a merge, another size) happen while it is closed here.

An image with any other feature is not written to directly. VHDX and VMDK are not either: VHDX's block table is
replayed from a log of its own, and nobody has 4 KiB of random writes to keep cheap there yet.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from rha._native import ffi, lib
from rha.journal.extents import Table

Counts = npt.NDArray[np.uint64]  # bytes done, by row
RANGE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("disk", "<u2"), ("kind", "<u2")])  # struct rha_undo_entry

# docs/interop/qcow2.txt in QEMU: magic, version, backing file, cluster_bits, size, crypt method, L1 entries and place,
# refcount table, snapshots and place, incompatible features.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQ")
_MAGIC = b"QFI\xfb"
_CLUSTER_BITS = range(9, 22)
_MAX_L1_BYTES = 32 << 20
_MAX_PLACE = 1 << 62  # a file's offset has 63 bits


class Tables(NamedTuple):
    """What is known of a file's tables between two of its changes; each change makes a new one. `shut`: the entries of
    `l1` whose clusters may have been given up since; `touched`: clusters that may have been given a place since."""

    cluster_bits: int
    l1: Any
    shut: Any
    touched: set[int]


class Layout(NamedTuple):
    """Where a qcow2 keeps its tables. `l1`: the entries, host byte order."""

    cluster_bits: int
    l1: Any


class DirectFile:
    """The file of one image that is open for writing in a storage daemon; belongs to its writer, but for `read`."""

    def __init__(self, path: Path, fd: int, layout: Layout | None) -> None:
        """Not for callers: use `open`."""
        self._path, self._fd = path, fd
        self._use(layout)

    @classmethod
    def open(cls, path: Path, format: str) -> Self | None:
        """None when the image must be written to through its daemon. Raises OSError."""
        if format not in ("qcow2", "raw"):
            return None
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        layout = read_layout(fd) if format == "qcow2" else None
        if format == "qcow2" and layout is None:
            os.close(fd)
            return None
        return cls(path, fd, layout)

    def _use(self, layout: Layout | None) -> None:
        """Nothing is shut any more: the tables are in the file."""
        self.tables = tables_of(layout)
        self._image, self._held = image_of(self._fd, self.tables)

    def write(self, batch: Table, data: memoryview) -> Counts:
        """Writes what has its place already: for each extent, how many of its bytes from its beginning on. No request
        of the daemon may be on its way. Raises OSError."""
        first = ffi.from_buffer("struct rha_extent[]", np.ascontiguousarray(batch))
        done, failed = np.zeros(len(batch), np.uint64), ffi.new("size_t *")
        into = ffi.from_buffer("uint64_t[]", done)
        error = lib.rha_direct_write(self._image, first, len(batch), ffi.from_buffer(data), into, failed)
        if error:
            raise OSError(error, os.strerror(error), f"byte {batch['offset'][failed[0]]}")
        return done

    def read(self, rows: Table, buffer: memoryview) -> Counts:
        """Reads ranges (rows as `RANGE`), one behind the other, those parts that have their place: for each, how
        many of its bytes from its beginning on. Raises OSError.

        Another thread may write meanwhile, here or through the daemon, if it touches none of the ranges: a cluster
        loses its place only when all of it is zeroed, and it gets one, as the file has it, when its surroundings are
        in it."""
        return read_ranges(self._image, rows, buffer)

    def zeroed(self, offset: int, length: int) -> None:
        """The daemon will be asked to zero a range: its clusters may lose their places."""
        tables = self.tables
        if tables.cluster_bits and length:
            shift = 2 * tables.cluster_bits - 3  # bytes that one table of the second level covers
            tables.shut[offset >> shift : (offset + length - 1 >> shift) + 1] = 1
            self.tables = Tables(*tables)

    def written(self, offset: int, length: int) -> None:
        """The daemon will be asked to write a range: its clusters may be given places."""
        bits = self.tables.cluster_bits
        if bits and length:
            self.tables.touched.update(range(offset >> bits, (offset + length - 1 >> bits) + 1))

    def fileno(self) -> int:
        return self._fd

    def sync(self) -> None:
        """Puts what was written here on stable storage. QEMU's own flush does not: it knows of no write. OSError."""
        os.fdatasync(self._fd)

    def flushed(self) -> None:
        """The daemon has flushed: its tables are in the file. An image that has become one that may not be written to
        directly (lazy refcounts mark it dirty at its first write) is the daemon's from now on. Raises OSError."""
        bits = self.tables.cluster_bits
        if bits:
            self._use(read_layout(self._fd) or Layout(bits, np.zeros(0, np.uint64)))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def tables_of(layout: Layout | None) -> Tables:
    """Of a file at a moment at which all that the daemon knows is in it; None: one without tables."""
    l1 = layout.l1 if layout else np.zeros(0, np.uint64)
    return Tables(layout.cluster_bits if layout else 0, l1, np.zeros(len(l1), np.uint8), set())


def image_of(fd: int, tables: Tables) -> tuple[Any, Any]:
    """C's view, and what must live as long as it."""
    image = ffi.new("struct rha_direct *")
    held = (ffi.from_buffer("uint64_t[]", tables.l1), ffi.from_buffer("uint8_t[]", tables.shut))
    image.file, image.cluster_bits, image.l1_count = fd, tables.cluster_bits, len(tables.l1)
    image.l1, image.shut = held
    return image, held


def read_ranges(image: Any, rows: Table, buffer: memoryview) -> Counts:
    """As `DirectFile.read`, of a view of C's."""
    first = ffi.from_buffer("struct rha_undo_entry[]", np.ascontiguousarray(rows))
    done, failed = np.zeros(len(rows), np.uint64), ffi.new("size_t *")
    into = ffi.from_buffer("uint64_t[]", done)
    target = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
    error = lib.rha_direct_read(image, first, len(rows), target, into, failed)
    if error:
        raise OSError(error, os.strerror(error), f"byte {rows['offset'][failed[0]]}")
    return done


def read_layout(fd: int) -> Layout | None:
    """The tables of a qcow2 that may be written to directly; None when it may not. Raises OSError."""
    head = os.pread(fd, _HEADER.size, 0)
    if len(head) < _HEADER.size:
        return None
    magic, version, _, _, bits, _, crypt, count, place, _, _, snapshots, _, incompatible = _HEADER.unpack(head)
    if magic != _MAGIC or version != 3 or crypt or snapshots or incompatible or bits not in _CLUSTER_BITS:
        return None
    if not 0 < count * 8 <= _MAX_L1_BYTES or place > _MAX_PLACE:
        return None
    raw = os.pread(fd, count * 8, place)
    return Layout(bits, np.frombuffer(raw, ">u8").astype(np.uint64)) if len(raw) == count * 8 else None
