"""The disks as they were at a point, readable while the images move on.

Nothing is copied: a map says for every sector that has changed since where its content of that time stands, in an undo
file or in the journal; all others are read from the live image. Before the applier overwrites a sector for the first
time in an interval its old content is durable in an undo file and this map knows it. So a sector that is not in the map
*after* it was read from the image was read before it changed.

Rejected: copying the difference into an overlay (10 GB of churn are 10 GB to read and to write before the first look),
and QEMU's own copy-before-write filter (it protects from now on and knows no past; every old block is written twice).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rha._native import ffi, lib
from rha.appliance import undo
from rha.appliance.history import History
from rha.appliance.pointblocks import PIECE, Blocks
from rha.appliance.points import Place
from rha.appliance.undo import Block
from rha.errors import StateError, StorageError
from rha.hashing import Buffer
from rha.journal import reader
from rha.journal.extents import Table, check_records
from rha.journal.folder import Segment
from rha.journal.reader import FrameFile
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType

STATUS_BYTES = 64 << 20  # of disk, asked about at a time
STATUS_TRIES = 3
READ_BYTES = 1 << 20
SECTOR = 512
DATA: int = lib.RHA_PIECE_DATA
ZEROS: int = lib.RHA_PIECE_ZEROS


class Base(Protocol):
    """The live images (rha.appliance.images.Images)."""

    def read(self, disk: int, offset: int, length: int) -> Buffer: ...

    def used(self, disk: int, offset: int, length: int) -> list[tuple[int, int]]: ...


class PointView:
    """May be read from any thread until `close`. Raises StorageError when the files it needs are damaged or gone."""

    def __init__(self, history: History, journal: Journal, place: Place, base: Base) -> None:
        self.place = place
        self.disk_bytes = [disk.bytes for disk in place.interval.head.stream.disks]
        self._history, self._base = history, base
        self._lock = threading.Lock()
        self._blocks = Blocks()
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

    def _open_undo(self, path: Path) -> FrameFile:
        return self._blocks.open(Segment(0, path, self._history.keys))

    def _put_journal(self, journal: Journal, start: int) -> None:
        """Newest first: what is put first stays."""
        end = self.place.position + (1 if self.place.prefix else 0)
        for place in reversed(list(journal.scan(start, end))):
            if place.header.type in (FrameType.RECORDS, FrameType.RESYNC):
                self._put_frame(place)

    def _put_frame(self, place: reader.Place) -> None:
        header, offset = place.header, place.position - place.segment.start
        file = self._blocks.open(place.segment)
        payload = file.entry(offset).payload[: header.raw_length]
        number = self._blocks.add(file, offset)
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
        number = self._blocks.add(self._open_undo(block.path), block.data)
        view = ffi.from_buffer("struct rha_undo_entry[]", block.table)
        _check(lib.rha_map_put_table(self._map, view, len(block.table) // undo.ENTRY_BYTES, number))

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
        """The map cannot be kept right any more; the files that it needs are let go of, and their space with them."""
        self._lost = why or "its undo is gone"
        self._blocks.lose()

    def removed_bytes(self) -> int:
        """Disk space that only this view still takes: what it needs has left the window."""
        return self._blocks.removed_bytes()

    @property
    def why_lost(self) -> str:
        """Why it cannot be read any more; empty: it can."""
        return self._lost

    # Reading --------------------------------------------------------------------------------------------------

    def read(self, disk: int, offset: int, length: int) -> memoryview:
        """Bytes of a disk at the point. Raises StateError when the point was lost meanwhile."""
        content = memoryview(bytearray(length))
        begin, end = _uncovered(self._within(disk, offset, length), offset, offset + length)
        if begin < end:
            content[begin - offset : end - offset] = self._base.read(disk, begin, end - begin)
        pieces = self._within(disk, offset, length)  # again: what was overwritten while it was read is known now
        holes = pieces[pieces["kind"] == ZEROS]
        for at, count in zip((holes["offset"] - np.uint64(offset)).tolist(), holes["length"].tolist(), strict=True):
            content[at : at + count] = bytes(count)
        pieces = pieces[pieces["kind"] == DATA]
        self._fill(pieces, pieces["offset"] - np.uint64(offset), content)
        return content

    @property
    def is_in_the_clear(self) -> bool:
        """None of the files that hold its content is encrypted: pieces can be read in any order."""
        return self._blocks.is_in_the_clear

    def gather(self, pieces: Table, buffer: memoryview) -> None:
        """Fills the buffer with the content of data pieces, one behind the other, for whoever goes through all of them.
        Where blocks are encrypted the order should be theirs. Raises as `read`."""
        lengths = pieces["length"].astype("u8")
        self._fill(pieces, np.cumsum(lengths) - lengths, buffer)

    def _fill(self, pieces: Table, to: Any, buffer: memoryview) -> None:
        try:
            self._blocks.gather(pieces, to, buffer)
        finally:  # what is lost looks damaged
            self._refuse_if_lost()

    def check(self) -> None:
        """Reads all that the map needs of undo and journal. Raises StorageError when any of it is damaged."""
        for disk in range(len(self.disk_bytes)):
            pieces = self.pieces(disk)
            for number in np.unique(pieces["block"][pieces["kind"] == DATA]).tolist():
                self._blocks.check(number)

    def _refuse_if_lost(self) -> None:
        if self._lost:
            raise StateError("the point is lost", cause=self._lost, hint="rha points")

    def pieces(self, disk: int) -> Table:
        """A disk's map, as it is now: rows of `pointblocks.PIECE`, ascending."""
        with self._lock:
            return self._rows(disk, 0, None)

    def _within(self, disk: int, offset: int, length: int) -> Table:
        """The pieces within a range, cut at its ends."""
        end = offset + length
        with self._lock:
            first, last = (lib.rha_map_find(self._map, disk, at) for at in (offset, end))
            found = self._rows(disk, first, last + 1)
        found = found[found["offset"] < end]
        if len(found):
            cut = max(0, offset - int(found["offset"][0]))
            found["offset"][0] += cut
            found["at"][0] += cut
            found["length"][0] -= cut
            found["length"][-1] = min(int(found["length"][-1]), end - int(found["offset"][-1]))
        return found

    def _rows(self, disk: int, first: int, stop: int | None) -> Table:
        """A copy; the lock is held."""
        count = ffi.new("size_t *")
        table = lib.rha_map_pieces(self._map, disk, count)
        stop = count[0] if stop is None else min(stop, count[0])
        if stop <= first:
            return np.empty(0, PIECE)
        return np.frombuffer(ffi.buffer(table + first, (stop - first) * PIECE.itemsize), PIECE).copy()

    def status(self, disk: int, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from `offset` on, and whether they surely read as zeros; may end early."""
        length = min(length, STATUS_BYTES)
        for _ in range(STATUS_TRIES):
            before = self._within(disk, offset, length)
            used = self._base.used(disk, offset, length)
            if np.array_equal(self._within(disk, offset, length), before):  # else a hole may be one only since now
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
        rows = self.pieces(disk)
        if not len(rows):
            return
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
        self._blocks.close()


def _unequal(one: memoryview, other: memoryview) -> Iterator[tuple[int, int]]:
    """The runs of sectors (offset, length in bytes) in which two buffers of the same length differ."""
    a, b = (np.frombuffer(part, "u1").reshape(-1, SECTOR) for part in (one, other))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], (a != b).any(axis=1), [False]])))
    for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield first * SECTOR, (stop - first) * SECTOR


def _uncovered(pieces: Table, begin: int, end: int) -> tuple[int, int]:
    """The least range that holds all of [begin, end) that no piece covers. What pieces cover inside it is read from the
    image for nothing: one request costs less than one for each gap between pieces of 4 KiB."""
    starts, ends = pieces["offset"], pieces["offset"] + pieces["length"]
    after = np.concatenate([starts, np.array([end], "u8")])
    before = np.concatenate([np.array([begin], "u8"), ends])
    edges = np.flatnonzero(after != before)  # where a gap precedes piece i
    if not len(edges):
        return begin, begin
    first, last = int(edges[0]), int(edges[-1])
    return (int(ends[first - 1]) if first else begin), (int(starts[last]) if last < len(pieces) else end)


def _status(pieces: Table, used: list[tuple[int, int]], offset: int, length: int) -> list[tuple[int, bool]]:
    """Pieces, and where there are none the used parts of the image, as one run of lengths."""
    sectors = -(-length // SECTOR)
    is_used = np.zeros(sectors, bool)
    for begin, count in used:
        is_used[(begin - offset) // SECTOR : -(-(begin - offset + count) // SECTOR)] = True
    is_covered = _marked(pieces, offset, sectors)
    is_data = np.where(is_covered, _marked(pieces[pieces["kind"] == DATA], offset, sectors), is_used)
    edges = [0, *(np.flatnonzero(np.diff(is_data)) + 1).tolist(), sectors]
    rows = [((stop - first) * SECTOR, not is_data[first]) for first, stop in itertools.pairwise(edges)]
    rows[-1] = (rows[-1][0] - (sectors * SECTOR - length), rows[-1][1])
    return [(count, bool(is_zero)) for count, is_zero in rows]


def _marked(pieces: Table, offset: int, sectors: int) -> Any:
    """For each sector from `offset` on: is it in a piece? Pieces do not overlap."""
    steps = np.zeros(sectors + 1, np.int8)
    begins = (pieces["offset"] - np.uint64(offset)) // np.uint64(SECTOR)
    steps[begins.astype(int)] += 1
    steps[(begins + pieces["length"] // SECTOR).astype(int)] -= 1
    return np.cumsum(steps[:-1]) > 0


def _check(result: int) -> None:
    if result:
        raise _no_memory()


def _no_memory() -> StorageError:
    return StorageError("no memory for a point's map", cause="malloc failed", hint="free -m")
