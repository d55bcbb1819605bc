"""Writing an undo file: what is about to be overwritten for the first time in the interval is read and kept first.

At 4 KiB a batch has 16 Ki ranges, so they stay rows of a table all the way; C finds them, reads them and packs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rha._native import ffi, lib
from rha.appliance.minus import WrittenSectors
from rha.appliance.undo import BLOCK_BYTES, ROW, Block, Head, blocks, end_of_sound, opened, path_of, read_head
from rha.buffers import BUFFERS
from rha.durable import sync_folder
from rha.errors import StorageError
from rha.hashing import Buffer
from rha.journal.extents import Table
from rha.journal.folder import pwrite_all
from rha.journal.reader import FrameFile
from rha.journal.sealing import Keyring
from rha.wire import frames
from rha.wire.frames import FrameType

# Old content held in memory at a time: what is read, looked at, summed and written stays in the processor's cache.
READ_BYTES = 4 << 20
_UNIT = 4096
_ENTRIES = 1 << 16  # of one table at most
_DATA: int = lib.RHA_PIECE_DATA
_ZEROS: int = lib.RHA_PIECE_ZEROS


class Reader(Protocol):
    """What reads an image's old content (rha.image.client.ImageReader)."""

    def read_rows(self, rows: Table, buffer: memoryview) -> None: ...

    def used(self, offset: int, length: int) -> Iterator[tuple[int, int]]: ...


class UndoFile:
    """The interval that is being written. Belongs to the applier's thread, but for `bytes`."""

    def __init__(self, reader: FrameFile, head: Head, disk_bytes: Sequence[int]) -> None:
        """Not for callers: `create` or `reopen`."""
        self.path, self.head, self.seal = reader.segment.path, head, reader.seal
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.bytes = reader.size
        self._touched = [WrittenSectors(disk, size) for disk, size in enumerate(disk_bytes)]
        self._sets = ffi.new("rha_sectors *[]", [touched.handle for touched in self._touched])

    @classmethod
    def create(cls, folder: Path, head: Head, disk_bytes: Sequence[int], keys: Keyring) -> UndoFile:
        """A new interval, durable when this returns. Raises StorageError."""
        path = path_of(folder, head.start.position)
        try:
            _write_new(path, head, keys)
            with opened(path, keys) as reader:
                return cls(reader, head, disk_bytes)
        except OSError as error:
            raise _not_written(path, error) from error

    @classmethod
    def reopen(cls, path: Path, disk_bytes: Sequence[int], keys: Keyring) -> UndoFile:
        """Goes on with an interval after a crash or a stop; a torn end is cut off. Raises StorageError."""
        with opened(path, keys) as reader:
            undo = cls(reader, read_head(reader), disk_bytes)
            undo._cut(end_of_sound(reader))
            os.fsync(undo._file)
            for block in blocks(reader, undo.bytes, disk_bytes):
                undo._touch(np.frombuffer(block.table, ROW))
        return undo

    def _cut(self, end: int) -> None:
        os.ftruncate(self._file, end)
        self.bytes = end

    def save(self, extents: Table, readers: Sequence[Reader]) -> list[Block]:
        """Keeps the old content of what these extents (sorted by disk) are about to overwrite for the first time in
        this interval. When it returns, that is durable, and the image may be written. Zeros take an entry and no data.

        Raises StorageError; then nothing was kept.
        """
        rows = _with_holes(self._first_touches(extents), readers)
        before, kept = self.bytes, []
        try:
            for group in _groups(rows):
                kept += self._keep(group, readers)
            if kept:
                os.fdatasync(self._file)
        except OSError as error:
            self._cut(before)
            raise _not_written(self.path, error) from error
        self._touch(rows)
        return kept

    def _first_touches(self, extents: Table) -> Table:
        first = ffi.from_buffer("struct rha_extent[]", np.ascontiguousarray(extents))
        room = len(extents) + 64
        while True:
            rows = np.empty(room, ROW)
            into = ffi.from_buffer("struct rha_undo_entry[]", rows)
            count = lib.rha_undo_first_touches(self._sets, first, len(extents), into, room)
            if count <= room:
                return rows[:count]
            room = count

    def _touch(self, rows: Table) -> None:
        if lib.rha_undo_touch(self._sets, ffi.from_buffer("struct rha_undo_entry[]", rows), len(rows)):
            raise StorageError("no memory for undo", cause="malloc failed", hint="free -m")

    def _keep(self, rows: Table, readers: Sequence[Reader]) -> list[Block]:
        wanted = rows[rows["kind"] == _DATA]
        data = _read(wanted, readers)
        table, length = _pack(wanted, data)
        table = np.concatenate([table, rows[rows["kind"] != _DATA]])
        return [self._append(part, data[begin:end]) for part, begin, end in _split(table, length)]

    def _append(self, table: bytes, data: memoryview) -> Block:
        rows = self.seal.pack([frames.encode(FrameType.UNDO_TABLE, table), table], self.bytes)
        at = self.bytes + sum(map(len, rows))
        parts: list[Buffer] = [*rows, *self.seal.pack([frames.encode(FrameType.UNDO_DATA, data), data], at)]
        pwrite_all(self._file, parts, self.bytes)
        self.bytes += sum(map(len, parts))
        return Block(self.path, at, table)

    def close(self) -> None:
        os.close(self._file)


def _write_new(path: Path, head: Head, keys: Keyring) -> None:
    """An undo file with its first frame, under its name only when it is durable. Raises OSError."""
    draft, seal = path.with_suffix(".new"), keys.begin(path.name)
    try:
        with draft.open("wb") as file:
            file.write(seal.head)
            file.writelines(seal.pack([frames.control(FrameType.INTERVAL, head)], len(seal.head)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _with_holes(rows: Table, readers: Sequence[Reader]) -> Table:
    """Long rows cut into data and holes, which are found by asking: a discarded disk is not read from end to end."""
    is_long = rows["length"] > BLOCK_BYTES
    if not is_long.any():
        return rows
    found = [
        part
        for offset, length, disk, _ in rows[is_long].tolist()
        for part in _long(disk, offset, length, readers[disk])
    ]
    joined = np.concatenate([rows[~is_long], np.array(found, ROW)])
    return joined[np.lexsort((joined["offset"], joined["disk"]))]


def _long(disk: int, offset: int, length: int, reader: Reader) -> Iterator[tuple[int, int, int, int]]:
    at = offset
    for begin, count in reader.used(offset, length):
        yield from _cut_up(disk, at, begin, 1 << 30, _ZEROS)
        yield from _cut_up(disk, begin, begin + count, BLOCK_BYTES, _DATA)
        at = begin + count
    yield from _cut_up(disk, at, offset + length, 1 << 30, _ZEROS)


def _cut_up(disk: int, begin: int, end: int, longest: int, kind: int) -> Iterator[tuple[int, int, int, int]]:
    for at in range(begin, end, longest):
        yield at, min(longest, end - at), disk, kind


def _data_ends(rows: Table) -> Any:
    """For each row, the bytes of data of all rows up to it."""
    return np.cumsum(np.where(rows["kind"] == _DATA, rows["length"].astype("u8"), 0))


def _groups(rows: Table) -> Iterator[Table]:
    """In order, each of at most READ_BYTES of data and a table's entries."""
    ends, first, begin = _data_ends(rows), 0, 0
    while first < len(rows):
        stop = int(np.searchsorted(ends, begin + READ_BYTES, "right"))
        stop = min(stop, first + _ENTRIES)
        yield rows[first:stop]
        first, begin = stop, int(ends[stop - 1])


def _read(rows: Table, readers: Sequence[Reader]) -> memoryview:
    """The images' content of these ranges, one behind the other."""
    lengths = rows["length"].astype("u8")
    buffer = BUFFERS.take(int(lengths.sum()))
    at = 0
    for disk in np.unique(rows["disk"]).tolist():  # sorted, as the rows are
        mine = rows[rows["disk"] == disk]
        size = int(mine["length"].sum(dtype="u8"))
        readers[disk].read_rows(mine, buffer[at : at + size])
        at += size
    return buffer


def _pack(rows: Table, data: memoryview) -> tuple[Table, int]:
    """The table of these ranges with zeros found, and how much of the data, moved together, is left."""
    packed, left = np.empty(int((rows["length"] // _UNIT + 2).sum(dtype="u8")), ROW), ffi.new("size_t *")
    source = ffi.from_buffer("struct rha_undo_entry[]", np.ascontiguousarray(rows))
    into = ffi.from_buffer("struct rha_undo_entry[]", packed)
    count = lib.rha_undo_pack(source, len(rows), ffi.from_buffer("uint8_t[]", data), BLOCK_BYTES // 4, into, left)
    return packed[:count], left[0]


def _split(table: Table, data_length: int) -> Iterator[tuple[bytes, int, int]]:
    """A table in blocks: (its bytes, where its data begins, where that ends)."""
    ends, first, begin = _data_ends(table), 0, 0
    while first < len(table):
        stop = int(np.searchsorted(ends, begin + BLOCK_BYTES, "right"))
        stop = min(max(stop, first + 1), first + _ENTRIES)
        end = int(ends[stop - 1])
        yield table[first:stop].tobytes(), begin, end
        first, begin = stop, end
    assert begin == data_length


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError("undo cannot be kept", cause=f"{path}: {error.strerror or error}", hint=f"df -h {path.parent}")
