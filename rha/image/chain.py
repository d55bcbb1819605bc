"""Reading an image past the storage daemon, in another thread than its writer's, also what lies below it.

A cluster that an overlay does not have is its base's. The file's tables show which ones those are, as long as the
daemon has not been asked to write to them since its last flush: it may then have given them a place that is known only
in its memory. The writer notes each such request before it is sent (`DirectFile.written`). A base does not change while
an overlay lies on it; what the lowest image does not have reads as zeros.

So a comparison during a sync, when overlays guard the last consistent point, needs the daemon for next to nothing. Its
NBD server takes memory for each request and copies once more, which cost nearly twice the reading and digesting.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from rha.image.direct import RANGE, DirectFile, Tables, image_of, read_layout, read_ranges, tables_of

# docs/interop/qcow2.txt in QEMU: place and length of the backing file's name; length of the header; extensions.
_BACKING = struct.Struct(">8xQI")
_HEADER_LENGTH = struct.Struct(">100xI")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_PLACE = (1 << 56) - (1 << 9)  # of a table, in an entry


class Backing(NamedTuple):
    """What an image names as the one below it."""

    path: Path
    format: str


class DirectReader:
    """Reads the file of a DirectFile, and its bases, while its writer works.

    What was read counts when the writer's tables are still the same object and it has touched no cluster that was taken
    for absent: a cluster loses its place, or is given one, by a request that is sent after the writer has noted it. So
    nothing of that had happened before the reading ended.
    """

    def __init__(self, writer: DirectFile) -> None:
        """Raises OSError."""
        self._writer = writer
        self._level = Level(os.dup(writer.fileno()), "qcow2" if writer.tables.cluster_bits else "raw")

    def read(self, offset: int, buffer: memoryview) -> int:
        """Fills the buffer with the disk's bytes from an offset on, as far as they are surely known: how many. Raises
        OSError."""
        tables = self._writer.tables
        absent: list[range] = []
        done = self._level.read(tables, offset, buffer, absent)
        is_still_so = self._writer.tables is tables and all(map(tables.touched.isdisjoint, absent))
        return done if is_still_so else 0

    def close(self) -> None:
        self._level.close()


class Level:
    """One file of a chain; takes over its descriptor."""

    def __init__(self, fd: int, format: str) -> None:
        """A raw image's first bytes are the master's: they name nothing, whatever they look like. Raises OSError."""
        self._fd = fd
        self._backing = backing_of(fd) if format == "qcow2" else None
        self._base = _Base.open(self._backing) if self._backing else None

    def read(self, tables: Tables, offset: int, buffer: memoryview, absent: list[range]) -> int:
        """How many bytes of the disk, from an offset on, were put into the buffer. `absent`: takes the clusters that
        were not here. Raises OSError."""
        image, _held = image_of(self._fd, tables)
        done = 0
        while done < len(buffer):
            row = np.array([(offset + done, len(buffer) - done, 0, 0)], RANGE)
            done += int(read_ranges(image, row, buffer[done:])[0])
            clusters = self._absent(tables, offset + done, len(buffer) - done)
            if not clusters:
                break
            absent.append(clusters)
            end = min(len(buffer), (clusters.stop << tables.cluster_bits) - offset)
            below = self._read_below(offset + done, buffer[done:end])
            done += below
            if not below:
                break
        return done

    def _absent(self, tables: Tables, offset: int, length: int) -> range:
        """The clusters from an offset on that the file surely does not have: those of one table, at most."""
        bits, shut = tables.cluster_bits, tables.shut
        if not bits or not length:
            return range(0)
        first, last = offset >> bits, offset + length - 1 >> bits
        table, index = divmod(first, 1 << bits - 3)
        if table >= len(tables.l1) or shut[table]:
            return range(0)
        count = min(last - first + 1, (1 << bits - 3) - index)
        if place := int(tables.l1[table]) & _PLACE:
            raw = os.pread(self._fd, count * 8, place + index * 8)
            present = np.flatnonzero(np.frombuffer(raw[: len(raw) & ~7], np.uint64))
            count = int(present[0]) if len(present) else len(raw) // 8
        found = range(first, first + count)
        return range(first, next((one for one in found if one in tables.touched), found.stop))

    def _read_below(self, offset: int, buffer: memoryview) -> int:
        if self._base:
            return self._base.read(offset, buffer)
        if self._backing:
            return 0  # of a kind that only QEMU reads
        np.frombuffer(buffer, np.uint8)[:] = 0
        return len(buffer)

    def close(self) -> None:
        if self._base:
            self._base.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Base:
    """An image below an overlay: nobody writes to it."""

    def __init__(self, level: Level, tables: Tables) -> None:
        self._level, self._tables = level, tables

    @classmethod
    def open(cls, backing: Backing) -> Self | None:
        """None when it is left to QEMU, which also says what is wrong with it. Raises OSError."""
        if backing.format not in ("qcow2", "raw") or not backing.path.is_absolute():  # or a name in QEMU's own words
            return None
        try:
            fd = os.open(backing.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        layout = read_layout(fd) if backing.format == "qcow2" else None
        if backing.format == "qcow2" and layout is None:
            os.close(fd)
            return None
        return cls(Level(fd, backing.format), tables_of(layout))

    def read(self, offset: int, buffer: memoryview) -> int:
        return self._level.read(self._tables, offset, buffer, [])

    def close(self) -> None:
        self._level.close()


def backing_of(fd: int) -> Backing | None:
    """What a qcow2 of version 3 names below itself; None when there is nothing. Raises OSError."""
    head = os.pread(fd, 4096, 0)
    place, length = _BACKING.unpack_from(head)
    if not place:
        return None
    name, at = os.pread(fd, length, place), _HEADER_LENGTH.unpack_from(head)[0]
    return Backing(Path(os.fsdecode(name)), _backing_format(head, at))


def _backing_format(head: bytes, at: int) -> str:
    """Empty when the header does not say so."""
    while at + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == _BACKING_FORMAT:
            return head[at : at + length].decode(errors="replace")
        if not kind:
            break
        at += length + 7 & ~7
    return ""
