"""The disks as they were at a point, readable while the images move on.

Nothing is copied: a map says for every sector that has changed since where its content of that time stands, in an undo
file or in the journal; all others are read from the live image. Before the applier overwrites a sector for the first
time in an interval its old content is durable in an undo file and this map knows it. So a sector that is not in the map
*after* it was read from the image was read before it changed.

Rejected: copying the difference into an overlay (10 GB of churn are 10 GB to read and to write before the first look),
and QEMU's own copy-before-write filter (it protects from now on and knows no past; every old block is written twice).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rha._native import ffi, lib
from rha.appliance import undo
from rha.appliance.history import History
from rha.appliance.points import Place
from rha.appliance.undo import Block
from rha.errors import StateError, StorageError
from rha.journal import reader
from rha.journal.extents import check_records
from rha.journal.folder import Segment
from rha.journal.reader import FrameFile
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType

CACHE_BYTES = 64 << 20
STATUS_BYTES = 64 << 20  # of disk, asked about at a time
STATUS_TRIES = 3
READ_BYTES = 1 << 20
SECTOR = 512
DATA: int = lib.RHA_PIECE_DATA
ZEROS: int = lib.RHA_PIECE_ZEROS
_PIECE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("block", "<u4"), ("at", "<u4"), ("kind", "<u4")])


class Base(Protocol):
    """The live images (rha.appliance.images.Images)."""

    def read(self, disk: int, offset: int, length: int) -> bytes: ...

    def used(self, disk: int, offset: int, length: int) -> list[tuple[int, int]]: ...


class Piece(NamedTuple):
    """A part of a disk: DATA, at byte `at` of block number `block`, or ZEROS."""

    offset: int
    length: int
    block: int
    at: int
    kind: int


class _Frame(NamedTuple):
    """Where a block's frame stands: an open file, and the offset in it."""

    file: FrameFile
    offset: int


class PointView:
    """May be read from any thread until `close`. Raises StorageError when the files it needs are damaged or gone."""

    def __init__(self, history: History, journal: Journal, place: Place, base: Base) -> None:
        self.place = place
        self.disk_bytes = [disk.bytes for disk in place.interval.head.stream.disks]
        self._history, self._base = history, base
        self._lock = threading.Lock()
        self._files: dict[Path, FrameFile] = {}
        self._frames: list[_Frame] = []
        self._cache: OrderedDict[int, memoryview] = OrderedDict()
        self._cached = 0
        self._waiting: list[Block] | None = []  # what is covered while the map is made; None: it is made
        self._lost = ""
        made = lib.rha_map_new(len(self.disk_bytes), ffi.new("uint64_t[]", self.disk_bytes))
        if made == ffi.NULL:
            raise _no_memory()
        self._map: Any = ffi.gc(made, lib.rha_map_free)
        try:
            self._make(journal)
        except BaseException:
            self.close()
            raise

    # The map --------------------------------------------------------------------------------------------------

    def _make(self, journal: Journal) -> None:
        start = self.place.interval.head.start.position
        files = [(self._open_undo(path), length) for path, length in self._history.attach(self, start)]
        self._put_journal(journal, start)
        for file, length in files:
            for block in undo.blocks(file, length, self.disk_bytes):
                self._put_block(block)
        with self._lock:
            self._settle()
            waiting, self._waiting = self._waiting or [], None
        self.cover(waiting)

    def _open(self, segment: Segment) -> FrameFile:
        """The file stays readable when it leaves the window."""
        path = segment.path
        if path not in self._files:
            try:
                self._files[path] = FrameFile(segment)
            except OSError as error:
                raise StorageError("the point has left the window", cause=f"{path}: {error.strerror}") from error
        return self._files[path]

    def _open_undo(self, path: Path) -> FrameFile:
        return self._open(Segment(0, path, self._history.keys))

    def _put_journal(self, journal: Journal, start: int) -> None:
        """Newest first: what is put first stays."""
        end = self.place.position + (1 if self.place.prefix else 0)
        for place in reversed(list(journal.scan(start, end))):
            if place.header.type in (FrameType.RECORDS, FrameType.RESYNC):
                self._put_frame(place)

    def _put_frame(self, place: reader.Place) -> None:
        header, offset = place.header, place.position - place.segment.start
        file = self._open(place.segment)
        payload = file.entry(offset).payload[: header.raw_length]
        number = self._number(_Frame(file, offset))
        if header.type is FrameType.RECORDS:
            run = payload[: self.place.prefix] if place.position == self.place.position else payload
            check_records(run, self.disk_bytes)
            _check(lib.rha_map_put_run(self._map, ffi.from_buffer(run), len(run), number))
            return
        zeros = bool(header.flags & frames.FLAG_ZEROS)
        length = frames.zeros_length(payload) if zeros else len(payload)
        if header.disk >= len(self.disk_bytes) or header.offset + length > self.disk_bytes[header.disk]:
            raise BadFrame("sync data beyond its disk", cause=f"{length} bytes at {header.offset}")
        kind = ZEROS if zeros else DATA
        _check(lib.rha_map_put(self._map, header.disk, header.offset, length, kind, number, 0))

    def _put_block(self, block: Block) -> None:
        number = self._number(_Frame(self._open_undo(block.path), block.data))
        view = ffi.from_buffer("struct rha_undo_entry[]", block.table)
        _check(lib.rha_map_put_table(self._map, view, len(block.table) // undo.ENTRY_BYTES, number))

    def _number(self, frame: _Frame) -> int:
        self._frames.append(frame)
        return len(self._frames) - 1

    def _settle(self) -> None:
        _check(lib.rha_map_settle(self._map))

    def cover(self, blocks: Sequence[Block]) -> None:
        """Called before the ranges of these blocks are overwritten in the image."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.extend(blocks)
                return
            for block in blocks:
                self._put_block(block)
            self._settle()

    def lose(self, why: str) -> None:
        """The map cannot be kept right any more."""
        self._lost = why or "its undo is gone"

    # Reading --------------------------------------------------------------------------------------------------

    def read(self, disk: int, offset: int, length: int) -> memoryview:
        """Bytes of a disk at the point. Raises StateError when the point was lost meanwhile."""
        content = memoryview(bytearray(length))
        for begin, count in _gaps(self._pieces(disk, offset, length), offset, length):
            content[begin - offset : begin - offset + count] = self._base.read(disk, begin, count)
        for piece in self._pieces(disk, offset, length):  # again: what was overwritten while it was read is known now
            at = piece.offset - offset
            content[at : at + piece.length] = self._content(piece)
        if self._lost:
            raise StateError("the point is lost", cause=self._lost, hint="rha points")
        return content

    def _pieces(self, disk: int, offset: int, length: int) -> list[Piece]:
        """The pieces within a range, cut at its ends."""
        found, count, end = [], ffi.new("size_t *"), offset + length
        with self._lock:
            index = lib.rha_map_find(self._map, disk, offset)
            table = lib.rha_map_pieces(self._map, disk, count)
            while index < count[0] and table[index].offset < end:
                row = table[index]
                begin, stop = max(row.offset, offset), min(row.offset + row.length, end)
                found.append(Piece(begin, stop - begin, row.block, row.at + begin - row.offset, row.kind))
                index += 1
        return found

    def _content(self, piece: Piece) -> memoryview | bytes:
        if piece.kind == ZEROS:
            return bytes(piece.length)
        return self._block(piece.block)[piece.at : piece.at + piece.length]

    def _block(self, number: int) -> memoryview:
        """A block's bytes, checked as a whole."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            frame = self._frames[number]
        try:
            payload = frame.file.entry(frame.offset).payload
        except BadFrame as error:
            raise StorageError("the point is damaged", cause=f"{error.what}: {error.cause}") from error
        with self._lock:
            if number not in self._cache:
                self._cache[number] = payload
                self._cached += len(payload)
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return payload

    def status(self, disk: int, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from `offset` on, and whether they surely read as zeros; may end early."""
        length = min(length, STATUS_BYTES)
        for _ in range(STATUS_TRIES):
            before = self._pieces(disk, offset, length)
            used = {gap: self._base.used(disk, *gap) for gap in _gaps(before, offset, length)}
            if self._pieces(disk, offset, length) == before:  # else a hole may be one only since now
                return _status(before, used, offset, length)
        return [(length, False)]

    def changed(self, disk: int) -> Iterator[tuple[int, int]]:
        """The ranges (offset, length) that were written since, or may be about to be; ascending, neighbours merged."""
        begin = end = 0
        for offset, length, _ in self.runs(disk):
            if offset != end:
                if end > begin:
                    yield begin, end - begin
                begin = offset
            end = offset + length
        if end > begin:
            yield begin, end - begin

    def runs(self, disk: int) -> Iterator[tuple[int, int, bool]]:
        """As `changed`, cut where zeros begin or end: (offset, length, is it zeros)."""
        count = ffi.new("size_t *")
        with self._lock:
            table = lib.rha_map_pieces(self._map, disk, count)
            if not count[0]:
                return
            rows = np.frombuffer(ffi.buffer(table, count[0] * _PIECE.itemsize), _PIECE).copy()
        ends, zeros = rows["offset"] + rows["length"], rows["kind"] == ZEROS
        breaks = np.flatnonzero((rows["offset"][1:] != ends[:-1]) | (zeros[1:] != zeros[:-1]))
        firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(rows) - 1)
        found = (rows["offset"][firsts], ends[lasts], zeros[firsts])
        for begin, end, is_zero in zip(*(column.tolist() for column in found), strict=True):
            yield begin, end - begin, is_zero

    def differing(self, newer: PointView, disk: int) -> Iterator[tuple[int, int]]:
        """The ranges (offset, length) in whole sectors whose content is not that of a newer point; ascending,
        neighbours merged. Reads what was written since this point. Raises as `read`."""
        begin = end = 0
        for offset, length in self.changed(disk):
            for at in range(offset, offset + length, READ_BYTES):
                size = min(READ_BYTES, offset + length - at)
                for first, count in _unequal(self.read(disk, at, size), newer.read(disk, at, size)):
                    if at + first != end:
                        if end > begin:
                            yield begin, end - begin
                        begin = at + first
                    end = at + first + count
        if end > begin:
            yield begin, end - begin

    def close(self) -> None:
        """No reading afterwards."""
        self._history.detach(self)
        for file in self._files.values():
            file.close()
        self._files.clear()


def _unequal(one: memoryview, other: memoryview) -> Iterator[tuple[int, int]]:
    """The runs of sectors (offset, length in bytes) in which two buffers of the same length differ."""
    a, b = (np.frombuffer(part, "u1").reshape(-1, SECTOR) for part in (one, other))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], (a != b).any(axis=1), [False]])))
    for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield first * SECTOR, (stop - first) * SECTOR


def _gaps(pieces: list[Piece], offset: int, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that no piece covers: they are in the image still."""
    at = offset
    for piece in pieces:
        if piece.offset > at:
            yield at, piece.offset - at
        at = piece.offset + piece.length
    if at < offset + length:
        yield at, offset + length - at


def _status(
    pieces: list[Piece], used: dict[tuple[int, int], list[tuple[int, int]]], offset: int, length: int
) -> list[tuple[int, bool]]:
    """Pieces and the used parts of the gaps between them as one run of lengths."""
    rows: list[tuple[int, bool]] = []
    at = offset
    for piece in [*pieces, Piece(offset + length, 0, 0, 0, ZEROS)]:
        if piece.offset > at:
            _add_used(rows, at, piece.offset, used[at, piece.offset - at])
        _add(rows, piece.length, piece.kind == ZEROS)
        at = piece.offset + piece.length
    return rows


def _add(rows: list[tuple[int, bool]], length: int, is_zero: bool) -> None:
    if not length:
        return
    if rows and rows[-1][1] == is_zero:
        rows[-1] = (rows[-1][0] + length, is_zero)
    else:
        rows.append((length, is_zero))


def _add_used(rows: list[tuple[int, bool]], begin: int, end: int, used: list[tuple[int, int]]) -> None:
    for offset, count in used:
        _add(rows, offset - begin, True)
        _add(rows, count, False)
        begin = offset + count
    _add(rows, end - begin, True)


def _check(result: int) -> None:
    if result:
        raise _no_memory()


def _no_memory() -> StorageError:
    return StorageError("no memory for a point's map", cause="malloc failed", hint="free -m")
