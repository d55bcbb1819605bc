"""The log of a dm-log-writes device, and its replay. Format: drivers/md/dm-log-writes.c and the kernel's
Documentation/admin-guide/device-mapper/log-writes.rst.

One block (its size is in the superblock, which is block 0) holds an entry's head, the data follows in whole blocks. The
order is that of completion, and a write stands in the log only once a flush that began after it has completed: the log
holds what the device had promised, not what was merely on its way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rha.errors import StorageError

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class Entry(NamedTuple):
    """One entry. `offset`, `length`: bytes on the device; `at`: place of the data in the log; `mark`: its name, of a
    MARK only."""

    flags: int
    offset: int
    length: int
    at: int
    mark: str


def entries(log: Path) -> Iterator[Entry]:
    """The entries in their order.

    Raises StorageError when the file is no such log.
    """
    with log.open("rb") as file:
        magic, version, count, block = _SUPER.unpack(file.read(_SUPER.size))
        if (magic, version) != (MAGIC, VERSION):
            raise StorageError(f"{log} is no log of dm-log-writes", cause=f"magic {magic:#x}, version {version}")
        at = block
        for _ in range(count):
            entry = _entry(file, at, block)
            yield entry
            at = entry.at + (0 if entry.flags & DISCARD else entry.length)


def _entry(file: BinaryIO, at: int, block: int) -> Entry:
    file.seek(at)
    sector, count, flags, data_length = _ENTRY.unpack(file.read(_ENTRY.size))
    mark = file.read(data_length).rstrip(b"\0").decode() if flags & MARK else ""
    return Entry(flags, sector * block, count * block, at + block, mark)


class Replayed:
    """A raw file of zeros that a log is written to, mark by mark."""

    def __init__(self, log: Path, image: Path, size: int) -> None:
        self.image = image
        self._log = log.open("rb")
        self._image = image.open("xb+")
        self._image.truncate(size)
        self._entries = entries(log)
        self.writes = 0

    def to_mark(self, mark: str) -> None:
        """Writes everything up to the mark of that name.

        Raises StorageError when it does not come.
        """
        for entry in self._entries:
            if entry.mark == mark:
                self._image.flush()
                return
            if entry.length:
                self._put(entry)
        raise StorageError(f"the log has no mark {mark}", cause=f"{self.writes} writes, then its end")

    def _put(self, entry: Entry) -> None:
        self.writes += 1
        self._image.seek(entry.offset)
        if entry.flags & DISCARD:
            self._image.write(bytes(entry.length))
        else:
            self._log.seek(entry.at)
            self._image.write(self._log.read(entry.length))

    def close(self) -> None:
        """The image stays."""
        self._image.close()
        self._log.close()
