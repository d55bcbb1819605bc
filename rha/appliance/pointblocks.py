"""The blocks that an open point shows: frames of undo files and journal segments, by number.

A read of 64 KiB of a point that lies 10 GB of 4 KiB back needs 16 pieces of as many blocks of up to 1 MiB: to read and
check them as a whole each time gave 9 MB/s. So that is done once for each block, and then its pieces are read from the
file. Encrypted ones can only be read as a whole: the last ones are kept.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rha._native import ffi, lib
from rha.errors import StorageError
from rha.journal.extents import Table
from rha.journal.folder import Segment
from rha.journal.reader import FrameFile
from rha.wire import frames
from rha.wire.frames import BadFrame

CACHE_BYTES = 64 << 20
_AT_ONCE = 64  # blocks held while pieces are copied, whatever the cache keeps

PIECE = np.dtype(  # struct rha_piece
    [("offset", "<u8"), ("length", "<u4"), ("block", "<u4"), ("at", "<u4"), ("kind", "<u4")]
)
_PLACE = np.dtype([("begin", "<u8"), ("length", "<u8"), ("file", "<i4"), ("unused", "<i4")])  # struct rha_place


class _Frame(NamedTuple):
    """Where a block's frame stands: an open file, and the offset in it."""

    file: FrameFile
    offset: int


class Blocks:
    """May be used from any thread until `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Path, FrameFile] = {}
        self._frames: list[_Frame] = []
        self._cache: OrderedDict[int, memoryview] = OrderedDict()
        self._cached = 0
        self._places: dict[int, tuple[int, int, int, int]] = {}  # as _PLACE, of blocks found sound

    def open(self, segment: Segment) -> FrameFile:
        """The file stays readable when it leaves the window. Raises StorageError when it has left, and KeyMissing."""
        path = segment.path
        with self._lock:
            if path not in self._files:
                try:
                    self._files[path] = FrameFile(segment)
                except OSError as error:
                    raise StorageError("the point has left the window", cause=f"{path}: {error.strerror}") from error
            return self._files[path]

    def add(self, file: FrameFile, offset: int) -> int:
        """The number of the frame that stands there."""
        with self._lock:
            self._frames.append(_Frame(file, offset))
            return len(self._frames) - 1

    def check(self, number: int) -> None:
        """Raises StorageError when a block is damaged."""
        _checked(self._frames[number])

    def payload(self, number: int) -> memoryview:
        """A block's bytes. Raises StorageError when they are damaged."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            frame = self._frames[number]
        payload = _checked(frame)
        with self._lock:
            if number not in self._cache:
                self._cache[number] = payload
                self._cached += len(payload)
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return payload

    def gather(self, pieces: Table, to: Any, out: memoryview) -> None:
        """Copies data pieces to these bytes (an array) of `out`. Each block is read as a whole and checked when it is
        first needed; then no more of it than is wanted, or, where files are encrypted, all of it. Raises StorageError.
        """
        (self._read if self.is_in_the_clear else self._copy_all)(pieces, to, out)

    @property
    def is_in_the_clear(self) -> bool:
        """No file is encrypted."""
        with self._lock:
            return not any(file.seal.extra_bytes for file in self._files.values())

    def _read(self, pieces: Table, to: Any, out: memoryview) -> None:
        order = np.lexsort((pieces["at"], pieces["block"]))
        pieces = pieces[order]
        numbers, which = np.unique(pieces["block"], return_inverse=True)
        places = np.array([self._place(number) for number in numbers.tolist()], _PLACE)
        error = lib.rha_pieces_read(
            ffi.from_buffer("struct rha_piece[]", pieces),
            len(pieces),
            ffi.from_buffer("uint32_t[]", which.astype("u4")),
            ffi.from_buffer("uint64_t[]", to[order].astype("u8")),
            ffi.from_buffer("struct rha_place[]", places),
            ffi.from_buffer("uint8_t[]", out),
            len(out),
        )
        if error:
            cause = os.strerror(error) if error > 0 else "a block is shorter than it was"
            raise StorageError("the point is damaged", cause=cause)

    def _place(self, number: int) -> tuple[int, int, int, int]:
        if number not in self._places:
            frame = self._frames[number]
            length = len(_checked(frame))
            self._places[number] = (frame.offset + frames.HEADER_BYTES, length, frame.file.file, 0)
        return self._places[number]

    def _copy_all(self, pieces: Table, to: Any, out: memoryview) -> None:
        order = np.argsort(pieces["block"], kind="stable")
        numbers, firsts = np.unique(pieces["block"][order], return_index=True)
        edges = [*firsts.tolist(), len(pieces)]
        for at in range(0, len(numbers), _AT_ONCE):
            some = numbers[at : at + _AT_ONCE]
            mine = order[edges[at] : edges[at + len(some)]]
            which = np.searchsorted(some, pieces["block"][mine])
            self._copy(some.tolist(), pieces[mine], which.astype("u4"), to[mine].astype("u8"), out)

    def _copy(self, numbers: list[int], pieces: Table, which: Any, to: Any, out: memoryview) -> None:
        payloads = [ffi.from_buffer("uint8_t[]", self.payload(number)) for number in numbers]
        error = lib.rha_pieces_gather(
            ffi.from_buffer("struct rha_piece[]", pieces),
            len(pieces),
            ffi.from_buffer("uint32_t[]", which),
            ffi.from_buffer("uint64_t[]", to),
            ffi.new("uint8_t *[]", payloads),
            ffi.new("uint64_t[]", [len(payload) for payload in payloads]),
            ffi.from_buffer("uint8_t[]", out),
            len(out),
        )
        if error:
            raise StorageError("the point is damaged", cause="a block is shorter than it was")

    def removed_bytes(self) -> int:
        """Of files that are kept for this alone: they have no name any more."""
        with self._lock:
            states = [os.fstat(file.file) for file in self._files.values()]
        return sum(state.st_blocks * 512 for state in states if not state.st_nlink)

    def lose(self) -> None:
        """Nothing can be read any more, and no space is held. Others may be reading: a descriptor in use must not
        become another file's, so it stays one, of nothing."""
        with self._lock, contextlib.suppress(OSError):
            self._cache.clear()
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for file in self._files.values():
                os.dup2(nothing, file.file, inheritable=False)
            os.close(nothing)

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


def _checked(frame: _Frame) -> memoryview:
    try:
        return frame.file.entry(frame.offset).payload
    except BadFrame as error:
        raise StorageError("the point is damaged", cause=f"{error.what}: {error.cause}") from error
