"""Undo files: the old content of what the applier overwrites, first touch per interval. Format: docs/journal.md.

A file is a run of frames (rha/wire/frames.py) like a journal segment, named by the journal position at which its
interval begins. The first frame says what the images were there; then, in pairs, a table and the data it speaks of.
Here they are read; undowriter.py writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from rha._native import ffi, lib
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.stream import StreamState
from rha.image.direct import RANGE
from rha.journal.folder import Segment
from rha.journal.reader import FrameFile, sound_end
from rha.journal.sealing import Keyring
from rha.wire import frames
from rha.wire.frames import FrameType, Header

BLOCK_BYTES = 1 << 20  # a block is read and checked as a whole when any byte of it is needed
ENTRY_BYTES: int = lib.RHA_UNDO_ENTRY_BYTES
ROW = RANGE
_NAME = re.compile(r"[0-9a-f]{16}\.undo")


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


def first_linked(heads: Sequence[Head]) -> int:
    """Index of the first head from which on every interval follows the one before it: a file that is missing cuts off
    all older ones."""
    for index in range(len(heads) - 1, 0, -1):
        if heads[index].before_start != heads[index - 1].start.position:
            return index
    return 0
