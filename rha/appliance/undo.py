"""Undo files: the old content of what the applier overwrites, first touch per interval. Format: docs/journal.md.

A file is a run of frames (rha/wire/frames.py) like a journal segment, named by the journal position at which its
interval begins. The first frame says what the images were there; then, in pairs, a table and the data it speaks of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from rha._native import ffi, lib
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.minus import WrittenSectors
from rha.appliance.stream import StreamState
from rha.errors import StorageError
from rha.hashing import Buffer
from rha.journal.extents import Extent
from rha.journal.folder import Segment, pwrite_all
from rha.journal.reader import FrameFile, sound_end
from rha.journal.sealing import Keyring
from rha.wire import frames
from rha.wire.frames import FrameType, Header

BLOCK_BYTES = 1 << 20  # a block is read and checked as a whole when any byte of it is needed
READ_BYTES = 16 << 20  # old content held in memory at a time
ENTRY_BYTES: int = lib.RHA_UNDO_ENTRY_BYTES
_UNIT = 4096
_ENTRIES = 1 << 16  # of one table at most
_TABLE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("disk", "<u2"), ("kind", "<u2")])
_NAME = re.compile(r"[0-9a-f]{16}\.undo")


class Reader(Protocol):
    """What reads an image's old content (rha.image.client.ImageReader)."""

    def fetch(self, offset: int, buffer: memoryview) -> None: ...

    def drain(self) -> None: ...

    def used(self, offset: int, length: int) -> Iterator[tuple[int, int]]: ...


class Head(msgspec.Struct, kw_only=True, frozen=True):
    """What the images were when an interval began. `before_start`: where the interval before it begins, None when there
    is none; `before_end`: where that ends, usually here, lower where the images were taken back to there. `base`: bytes
    of all undo files before this one. `created`: this host's clock, seconds since the epoch."""

    start: Checkpoint
    stream: StreamState
    before_start: int | None
    before_end: int
    base: int
    created: float


class Block(NamedTuple):
    """A table of an undo file. `data`: offset of the frame that holds its data. `table`: entries of 16 bytes."""

    path: Path
    data: int
    table: bytes


def path_of(folder: Path, start: int) -> Path:
    return folder / f"{start:016x}.undo"


def files(folder: Path) -> list[Path]:
    """The folder's undo files, oldest first; none when there is no folder."""
    return sorted(path for path in folder.glob("*.undo") if _NAME.fullmatch(path.name))


def opened(path: Path, keys: Keyring) -> FrameFile:
    """An undo file, for reading. Raises OSError, KeyMissing."""
    return FrameFile(Segment(0, path, keys))


def read_head(file: FrameFile) -> Head:
    """The first frame. Raises StorageError when it is not one."""
    entry = file.entry(file.first)
    if entry.header.type is not FrameType.INTERVAL:
        cause = f"{file.segment.path} begins with {entry.header.type.name}"
        raise frames.BadFrame("not an undo file", cause=cause)
    return frames.decode_control(entry.header, entry.payload, Head)


def end_of_sound(file: FrameFile) -> int:
    """Offset behind the last table whose data is there, too."""
    end, _ = sound_end(file)
    whole = 0
    for header, offset in _headers(file, end):
        if header.type is not FrameType.UNDO_TABLE:
            whole = file.behind(header, offset)
    return whole


def _headers(file: FrameFile, end: int) -> Iterator[tuple[Header, int]]:
    offset = file.first
    while offset < end:
        header = file.header(offset)
        yield header, offset
        offset = file.behind(header, offset)


def blocks(file: FrameFile, end: int, disk_bytes: Sequence[int]) -> Iterator[Block]:
    """The tables of an undo file, up to an offset; their data is skipped.

    Raises StorageError when one is damaged.
    """
    for header, offset in _headers(file, end):
        if header.type is not FrameType.UNDO_TABLE:
            continue
        table = bytes(file.entry(offset).payload)
        data = file.behind(header, offset)
        check_table(table, file.header(data).length, disk_bytes)
        yield Block(file.segment.path, data, table)


def check_table(table: bytes, data_length: int, disk_bytes: Sequence[int]) -> None:
    """Raises BadFrame when a table cannot be right, whatever its checksum says."""
    sizes = ffi.new("uint64_t[]", list(disk_bytes))
    entries, rest = divmod(len(table), ENTRY_BYTES)
    view = ffi.from_buffer("struct rha_undo_entry[]", table)
    if rest or lib.rha_undo_check(view, entries, data_length, len(disk_bytes), sizes):
        raise frames.BadFrame("an undo table that cannot be", cause=f"{entries} entries for {data_length} bytes")


class UndoFile:
    """The interval that is being written. Belongs to the applier's thread, but for `bytes`."""

    def __init__(self, reader: FrameFile, head: Head, disk_bytes: Sequence[int]) -> None:
        """Not for callers: `create` or `reopen`."""
        self.path, self.head, self.seal = reader.segment.path, head, reader.seal
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.bytes = reader.size
        self._disk_bytes = list(disk_bytes)
        self._touched = [WrittenSectors(disk, size) for disk, size in enumerate(disk_bytes)]

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
                undo._touch(np.frombuffer(block.table, _TABLE).tolist())
        return undo

    def _cut(self, end: int) -> None:
        os.ftruncate(self._file, end)
        self.bytes = end

    def save(self, extents: Iterable[Extent], readers: Sequence[Reader]) -> list[Block]:
        """Keeps the old content of what these extents are about to overwrite for the first time in this interval.
        When it returns, that is durable, and the image may be written. Zeros take an entry and no data.

        Raises StorageError; then nothing was kept.
        """
        before, kept = self.bytes, []
        ranges = list(self._untouched(extents, readers))
        try:
            for group in _groups(ranges):
                kept += self._keep(group, readers)
            if kept:
                os.fdatasync(self._file)
        except OSError as error:
            self._cut(before)
            raise _not_written(self.path, error) from error
        self._touch(ranges)
        return kept

    def _touch(self, ranges: Iterable[Sequence[int]]) -> None:
        for offset, length, disk, _ in ranges:
            self._touched[disk].add_range(offset, length)

    def _untouched(self, extents: Iterable[Extent], readers: Sequence[Reader]) -> Iterator[tuple[int, int, int, int]]:
        """As rows of a table: (offset, length, disk, kind). What is a hole in the image is no data."""
        for extent in extents:
            for offset, length in self._touched[extent.disk].without(extent.offset, extent.length):
                if length <= BLOCK_BYTES:
                    yield offset, length, extent.disk, lib.RHA_PIECE_DATA
                else:
                    yield from _long(extent.disk, offset, length, readers[extent.disk])

    def _keep(self, ranges: list[tuple[int, int, int, int]], readers: Sequence[Reader]) -> list[Block]:
        data = _read([row for row in ranges if row[3] == lib.RHA_PIECE_DATA], readers)
        table, length = _pack(ranges, data)
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
    _sync_folder(path.parent)


def _long(disk: int, offset: int, length: int, reader: Reader) -> Iterator[tuple[int, int, int, int]]:
    """A long range in rows: holes are found by asking, so that a discarded disk is not read from end to end."""
    at = offset
    for begin, count in reader.used(offset, length):
        yield from _zeros(disk, at, begin)
        for piece in range(begin, begin + count, BLOCK_BYTES):
            yield piece, min(BLOCK_BYTES, begin + count - piece), disk, lib.RHA_PIECE_DATA
        at = begin + count
    yield from _zeros(disk, at, offset + length)


def _zeros(disk: int, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    for at in range(begin, end, 1 << 30):
        yield at, min(1 << 30, end - at), disk, lib.RHA_PIECE_ZEROS


def _groups(ranges: list[tuple[int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int]]]:
    """In order, each of at most READ_BYTES of data and a table's entries."""
    group: list[tuple[int, int, int, int]] = []
    size = 0
    for row in ranges:
        length = row[1] if row[3] == lib.RHA_PIECE_DATA else 0
        if group and (size + length > READ_BYTES or len(group) == _ENTRIES):
            yield group
            group, size = [], 0
        group.append(row)
        size += length
    if group:
        yield group


def _read(rows: list[tuple[int, int, int, int]], readers: Sequence[Reader]) -> memoryview:
    """The image's content of these ranges, one behind the other."""
    buffer = memoryview(bytearray(sum(row[1] for row in rows)))
    at = 0
    for offset, length, disk, _ in rows:
        readers[disk].fetch(offset, buffer[at : at + length])
        at += length
    for reader in readers:
        reader.drain()
    return buffer


def _pack(ranges: list[tuple[int, int, int, int]], data: memoryview) -> tuple[Any, int]:
    """The table of these ranges with zeros found, and how much of the data, moved together, is left."""
    room = sum(length // _UNIT + 2 for _, length, _, kind in ranges if kind == lib.RHA_PIECE_DATA)
    packed, left = ffi.new("struct rha_undo_entry[]", room + 1), ffi.new("size_t *")
    rows = [row for row in ranges if row[3] == lib.RHA_PIECE_DATA]
    source = ffi.new("struct rha_undo_entry[]", rows)
    count = lib.rha_undo_pack(source, len(rows), ffi.from_buffer("uint8_t[]", data), BLOCK_BYTES // 4, packed, left)
    table = np.frombuffer(ffi.buffer(packed, count * ENTRY_BYTES), _TABLE)
    holes = np.array([row for row in ranges if row[3] != lib.RHA_PIECE_DATA], _TABLE)
    return np.concatenate([table, holes]), left[0]


def _split(table: Any, data_length: int) -> Iterator[tuple[bytes, int, int]]:
    """A table in blocks: (its bytes, where its data begins, where that ends)."""
    ends = np.cumsum(np.where(table["kind"] == lib.RHA_PIECE_DATA, table["length"].astype("u8"), 0))
    first, begin = 0, 0
    while first < len(table):
        stop = int(np.searchsorted(ends, begin + BLOCK_BYTES, "right"))
        stop = min(max(stop, first + 1), first + _ENTRIES)
        end = int(ends[stop - 1])
        yield table[first:stop].tobytes(), begin, end
        first, begin = stop, end
    assert begin == data_length


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError("undo cannot be kept", cause=f"{path}: {error.strerror or error}", hint=f"df -h {path.parent}")


def first_linked(heads: Sequence[Head]) -> int:
    """Index of the first head from which on every interval follows the one before it: a file that is missing cuts off
    all older ones."""
    for index in range(len(heads) - 1, 0, -1):
        if heads[index].before_start != heads[index - 1].start.position:
            return index
    return 0
