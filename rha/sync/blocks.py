"""Reading a disk beside its file system, and digests of what was read."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from blake3 import blake3

from rha.errors import DeviceError, StateError
from rha.sync.plan import Piece
from rha.wire import frames

BLOCK_BYTES = 64 << 10
SECTOR_BYTES, PAGE_BYTES = 512, 4096
UNITS = {0: BLOCK_BYTES, frames.FLAG_SECTORS: SECTOR_BYTES, frames.FLAG_PAGES: PAGE_BYTES}  # by the flags of HASHES
EQUAL, DIFFERS, PARTLY_UNSENT, UNSENT = range(4)  # answers to a digest: the last two differ where nothing was ever sent
MOST_BYTES = 16 << 20  # of disk that one question may be about; engines ask about 1 MiB
DIGEST_BYTES = 16  # of blake3's 32: 2^-64 for an accidental match of two blocks among 2^32


AHEAD = 3  # pieces that are read, or about to be, while one is digested and sent
READERS = 2  # requests that the disk has at a time: one would leave it idle from each answer to the next request


class ReadPiece(NamedTuple):
    """`view`: the piece's bytes, in `buffer`, to be handed back with `DiskReader.release`."""

    piece: Piece
    buffer: mmap.mmap
    view: memoryview


class DiskReader:
    """Reads ranges with O_DIRECT, past the page cache, into a pool of aligned buffers.

    O_DIRECT for two reasons: what the disk holds counts, not what the cache will write one day; and a full read of the
    disk must not push the master's cache out. `check` is called while a read waits for a buffer; what it raises ends
    the wait.
    Raises DeviceError.
    """

    def __init__(self, path: str, *, check: Callable[[], None], buffer_bytes: int = 1 << 20, buffers: int = 24) -> None:
        self._path, self._check = path, check
        self._is_closed = False
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"{path} cannot be opened", cause=error.strerror or str(error), hint="lsblk") from error
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(buffers):
            self._free.put(mmap.mmap(-1, buffer_bytes))
        # Its threads have the class of I/O of the one that reads ahead: a thread inherits it (rha/sync/paced.py).
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def __enter__(self) -> DiskReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)  # nobody reads from a number that may be another file's
        os.close(self._fd)
        with contextlib.suppress(queue.Empty):  # whoever still holds the reader must not hold 24 MiB with it
            while True:
                self._free.get_nowait()

    def read(self, offset: int, length: int) -> tuple[mmap.mmap, memoryview]:
        """`length` bytes at `offset`: the buffer, to be handed back with `release`, and the view on it. Blocks while
        all buffers are in use. Raises DeviceError on an I/O error or a short read."""
        buffer = self._next_buffer()
        view = memoryview(buffer)[:length]
        try:
            count = os.preadv(self._fd, [view], offset)
        except OSError as error:
            raise DeviceError(
                f"{self._path} cannot be read", cause=f"at byte {offset}: {error}", hint="dmesg"
            ) from error
        if count != length:
            raise DeviceError(f"{self._path} is shorter than it was", cause=f"{count} of {length} bytes at {offset}")
        return buffer, view

    def ahead(self, wanted: Iterator[Piece]) -> Iterator[ReadPiece]:
        """The pieces in their order, the next ones being read meanwhile; each is asked for when its reading begins.
        Raises DeviceError, and what `wanted` raises."""
        under_way: deque[tuple[Piece, Future[tuple[mmap.mmap, memoryview]]]] = deque()
        for piece in wanted:
            under_way.append((piece, self._pool.submit(self.read, piece.offset, piece.length)))
            while len(under_way) > AHEAD or (under_way and under_way[0][1].done()):
                yield _read_piece(under_way)
        while under_way:
            yield _read_piece(under_way)

    def _next_buffer(self) -> mmap.mmap:
        while True:
            try:
                return self._free.get(timeout=0.2)
            except queue.Empty:
                self._check()
            if self._is_closed:
                raise StateError(f"{self._path} is not read any more", cause="whoever read it has ended")

    def release(self, buffer: mmap.mmap) -> None:
        """The buffer may be used again; its views must not."""
        if not self._is_closed:
            self._free.put(buffer)


def _read_piece(under_way: deque[tuple[Piece, Future[tuple[mmap.mmap, memoryview]]]]) -> ReadPiece:
    piece, reading = under_way.popleft()
    return ReadPiece(piece, *reading.result())


def digests(data: memoryview, unit: int = BLOCK_BYTES) -> bytes:
    """BLAKE3 of each block of `unit` bytes, 16 bytes each, one after the other."""
    return b"".join(blake3(data[at : at + unit]).digest(length=DIGEST_BYTES) for at in range(0, len(data), unit))


def differing(mine: bytes, theirs: bytes) -> bytes:
    """One byte per block: 1 where the digests differ. Both must be of the same length."""
    return bytes(
        mine[at : at + DIGEST_BYTES] != theirs[at : at + DIGEST_BYTES] for at in range(0, len(mine), DIGEST_BYTES)
    )
