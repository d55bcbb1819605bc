"""The blocks that an open point shows: frames of undo files and journal segments, by number, read and checked as a
whole, the last ones kept."""

from __future__ import annotations

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
from rha.wire.frames import BadFrame

CACHE_BYTES = 64 << 20
_AT_ONCE = 64  # blocks held while pieces are copied, whatever the cache keeps

PIECE = np.dtype(  # struct rha_piece
    [("offset", "<u8"), ("length", "<u4"), ("block", "<u4"), ("at", "<u4"), ("kind", "<u4")]
)


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

    def payload(self, number: int) -> memoryview:
        """A block's bytes. Raises StorageError when they are damaged."""
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

    def gather(self, pieces: Table, to: Any, out: memoryview) -> None:
        """Copies data pieces to these bytes (an array) of `out`; each block is read once. Raises StorageError."""
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

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
