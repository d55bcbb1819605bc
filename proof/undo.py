"""Reads undo files (docs/journal.md) without a line of rha, and puts what they keep back over an image.

Slow and plain on purpose, like proof/journal.py. Files in the clear only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proof import journal
from proof.journal import BadJournal, Frame

INTERVAL, TABLE, DATA = 64, 65, 66
DATA_ROW, ZEROS_ROW = 1, 2
_ROW = struct.Struct("<QIHH")


class Interval(NamedTuple):
    """One undo file. `start`: the journal position at which it begins; `base`: bytes of all files before it; `end`:
    bytes of it that are sound, the file's own length but for the last one of a crash."""

    path: Path
    start: int
    base: int
    end: int


class Piece(NamedTuple):
    """Old content of a range: `data`, or None for zeros. Offset and length in bytes."""

    disk: int
    offset: int
    length: int
    data: memoryview | None


def intervals(folder: Path) -> list[Interval]:
    """The window, oldest first. Raises BadJournal when a file is torn that is not the last one, when one is missing, or
    when less is there than the durable mark says."""
    found: list[Interval] = []
    for path in sorted(folder.glob("*.undo")):
        if found and found[-1].end != found[-1].path.stat().st_size:
            raise BadJournal(f"{found[-1].path} is torn at {found[-1].end}, and is not the last one")
        first = next(_sound(path), None)
        if first is None or first.type != INTERVAL:
            raise BadJournal(f"{path} does not say what it is")
        head = first.message()
        if found and head["before_start"] != found[-1].start:
            raise BadJournal(f"{path} follows the interval at {head['before_start']}, not {found[-1].start}")
        found.append(Interval(path, int(path.stem, 16), head["base"], _end(path)))
    if found and found[-1].base + found[-1].end < (kept := journal.durable(folder)):
        raise BadJournal(f"{found[-1].path} is sound up to {found[-1].end}, undo up to {kept} was durable")
    return found


def put_over(interval: Interval, images: Sequence[Any]) -> None:
    """Images that had all of an interval written to them become what they were at its start. Raises BadJournal."""
    for piece in pieces(interval):
        image = images[piece.disk]
        if piece.offset + piece.length > len(image):
            raise BadJournal(f"{interval.path} speaks of {piece.length} bytes at {piece.offset} of disk {piece.disk}")
        image[piece.offset : piece.offset + piece.length] = bytes(piece.length) if piece.data is None else piece.data


def pieces(interval: Interval) -> Iterator[Piece]:
    """What a file keeps, up to its sound end. Raises BadJournal when a table and its data do not fit."""
    table = memoryview(b"")
    for frame in _sound(interval.path):
        if frame.next_position > interval.end:
            return
        if frame.type == TABLE:
            table = frame.payload
        elif frame.type == DATA:
            yield from _rows(interval.path, table, frame.payload)


def _rows(path: Path, table: memoryview, data: memoryview) -> Iterator[Piece]:
    at = 0
    for offset, length, disk, kind in _ROW.iter_unpack(table):
        if kind == DATA_ROW:
            yield Piece(disk, offset, length, data[at : at + length])
            at += length
        elif kind == ZEROS_ROW:
            yield Piece(disk, offset, length, None)
        else:
            raise BadJournal(f"a row of kind {kind} in {path}")
    if at != len(data):
        raise BadJournal(f"{len(data)} bytes of data for {at} in {path}")


def _end(path: Path) -> int:
    """Behind the last table whose data is there, too."""
    end = 0
    for frame in _sound(path):
        if frame.type != TABLE:
            end = frame.next_position
    return end


def _sound(path: Path) -> Iterator[Frame]:
    """The frames of a file, as far as they are whole."""
    try:
        yield from journal.segment(path, 0)
    except BadJournal:
        return
