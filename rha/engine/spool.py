"""The spool: a preallocated file that takes over what the ring cannot hold any longer.

    offset       bytes
         0        4096  "RHASPOOL", version, capacity, number of entries (little-endian u64 each), XXH3-64 of these
      4096  64*entries  table: one entry per chunk, in the order of writing, round and round
         …    capacity  data: position p of the stream stands at p % capacity, as in the ring itself

An entry: begin and end of the chunk (stream positions), submission time of its first record (CLOCK_MONOTONIC, ns),
XXH3-64 of its data, the generation (16 bytes), 8 zero bytes, XXH3-64 of the entry's first 56 bytes.

The ring's own release position, which outlives the engine in the kernel, says how far the spool counts: a chunk is on
stable storage before its space in the ring is given back. So nothing in the file has to be rewritten when a chunk is
done with, and after a crash the chunks that count are those that join without a hole and end just where the ring
begins. What was torn is still in the ring.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rha import hashing
from rha.durable import sync_folder
from rha.errors import StorageError

MAGIC, VERSION = b"RHASPOOL", 1
HEAD_BYTES = 4096
ENTRY_BYTES = 64
CHUNK_BYTES = 1 << 20
BYTES_PER_ENTRY = 256 << 10  # chunks are about 1 MiB; many small ones fill the table before the file
_HEAD = struct.Struct("<8sQQQQ")
_ENTRY = struct.Struct("<QQQQ16sQ")


class Chunk(NamedTuple):
    """Stream positions [begin, end). `time_ns`: CLOCK_MONOTONIC at the submission of its first record."""

    begin: int
    end: int
    time_ns: int
    total: int


class Spool:
    """One thread appends and syncs; the index belongs to whoever holds the backlog's lock."""

    def __init__(self, path: Path, file: int, capacity: int, entries: int, generation: bytes) -> None:
        """Not for callers: use `Spool.open`."""
        self.path, self.capacity = path, capacity
        self.file, self._entries, self._generation = file, entries, generation
        self._data_start = HEAD_BYTES + entries * ENTRY_BYTES
        self._chunks: deque[Chunk] = deque()
        self._bounds = (0, 0, 0)  # begin, end, time of the oldest
        self._sequence = 0

    @classmethod
    def open(cls, path: Path, size: int, generation: str, released: int) -> Spool:
        """The spool of `size` bytes, made when there is none of that size. Chunks of this generation that end at
        `released`, the ring's release position, count again; all others are forgotten.

        Raises StorageError when the file cannot be made, is no spool, or is in use.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = size // BYTES_PER_ENTRY
            capacity = size - HEAD_BYTES - entries * ENTRY_BYTES & ~7
            _prepare(path, file, size, _head(capacity, entries))
            spool = cls(path, file, capacity, entries, bytes.fromhex(generation))
            spool._recover(released)
            return spool
        except OSError as error:
            os.close(file)
            raise _unusable(path, error) from error
        except StorageError:
            os.close(file)
            raise

    def close(self) -> None:
        os.close(self.file)

    def _recover(self, released: int) -> None:
        table = os.pread(self.file, self._entries * ENTRY_BYTES, HEAD_BYTES)
        found = {}
        for at in range(0, len(table), ENTRY_BYTES):
            chunk = _decode(table[at : at + ENTRY_BYTES], self._generation)
            if chunk:
                found[chunk.end] = (chunk, at // ENTRY_BYTES)
        # A chunk whose data was written over by a later one lies more than one capacity below that one's end.
        lowest = max(found, default=0) - self.capacity
        self._chunks.extend(chain(((chunk for chunk, _ in found.values())), released, lowest))
        self._note_bounds()
        if self._chunks:
            self._sequence = found[self._chunks[-1].end][1] + 1

    # Index ----------------------------------------------------------------------------------------------------

    @property
    def begin(self) -> int:
        """The oldest position held; valid iff `used_bytes`. Any thread may ask for this and what follows."""
        return self._bounds[0]

    @property
    def end(self) -> int:
        """Everything from `begin` to here is held; 0 when nothing is."""
        return self._bounds[1]

    @property
    def oldest(self) -> int | None:
        """The oldest position held; None when nothing is."""
        begin, end, _ = self._bounds
        return begin if end > begin else None

    @property
    def used_bytes(self) -> int:
        begin, end, _ = self._bounds
        return end - begin

    @property
    def oldest_time_ns(self) -> int:
        return self._bounds[2]

    def _note_bounds(self) -> None:
        """One assignment: whoever reads without the lock sees one moment."""
        first, last = (self._chunks[0], self._chunks[-1]) if self._chunks else (None, None)
        self._bounds = (first.begin, last.end, first.time_ns) if first and last else (0, 0, 0)

    def room(self, first: int, pending: int) -> int:
        """Bytes from position `first` on that may be written without touching what is held, when `pending` chunks are
        written and not added yet."""
        if len(self._chunks) + pending >= self._entries:
            return 0
        return self.capacity - (first - self.begin if self._chunks else 0)

    def add(self, chunk: Chunk) -> None:
        """The chunk was written and synced. What it does not join is forgotten: the stream has passed it."""
        if self._chunks and chunk.begin != self.end:
            self._chunks.clear()
        self._chunks.append(chunk)
        self._note_bounds()

    def release(self, position: int) -> None:
        """The appliance holds everything below."""
        while self._chunks and self._chunks[0].end <= position:
            self._chunks.popleft()
        self._note_bounds()

    def clear(self, generation: str) -> None:
        """Forgets everything: another generation begins."""
        self._chunks.clear()
        self._note_bounds()
        self._generation = bytes.fromhex(generation)

    def find(self, position: int) -> Chunk | None:
        """The chunk that holds a position."""
        if not self._chunks or not self.begin <= position < self.end:
            return None
        # Read in order, so it is one of the first.
        return next(chunk for chunk in self._chunks if position < chunk.end)

    # Bytes ----------------------------------------------------------------------------------------------------

    def write(self, begin: int, data: bytes, time_ns: int) -> Chunk:
        """Writes a chunk, which counts once it is synced and added. Raises OSError."""
        chunk = Chunk(begin, begin + len(data), time_ns, hashing.xxh3(data))
        at = begin % self.capacity
        first = min(len(data), self.capacity - at)
        _pwrite(self.file, memoryview(data)[:first], self._data_start + at)
        _pwrite(self.file, memoryview(data)[first:], self._data_start)
        place = HEAD_BYTES + self._sequence % self._entries * ENTRY_BYTES
        _pwrite(self.file, memoryview(_encode(chunk, self._generation)), place)
        self._sequence += 1
        return chunk

    def sync(self) -> None:
        """Puts everything written on stable storage. Raises OSError."""
        os.fdatasync(self.file)

    def read(self, chunk: Chunk) -> bytes:
        """The bytes of a chunk. Raises StorageError when they are not those that were written."""
        at, length = chunk.begin % self.capacity, chunk.end - chunk.begin
        first = min(length, self.capacity - at)
        try:
            data = os.pread(self.file, first, self._data_start + at)
            data += os.pread(self.file, length - first, self._data_start)
        except OSError as error:
            raise _damaged(self.path, chunk, error.strerror or str(error)) from error
        if len(data) != length or hashing.xxh3(data) != chunk.total:
            raise _damaged(self.path, chunk, "its checksum does not fit")
        return data


def chain(chunks: Iterable[Chunk], released: int, lowest: int) -> list[Chunk]:
    """Those chunks that join without a hole and end at `released`, oldest first; none begins below `lowest`."""
    by_end = {chunk.end: chunk for chunk in chunks}
    found: list[Chunk] = []
    at = released
    while (chunk := by_end.get(at)) and chunk.begin >= lowest:
        found.append(chunk)
        at = chunk.begin
    return found[::-1]


def _prepare(path: Path, file: int, size: int, head: bytes) -> None:
    """An existing file keeps its content; another size or layout begins anew, but only in place of a spool."""
    before = os.pread(file, HEAD_BYTES, 0)
    if any(before) and not before.startswith(MAGIC):  # only zeros: a crash while it was made
        raise StorageError(f"{path} is no spool", cause="something else is in this file", hint="choose another path")
    if before != head:
        os.ftruncate(file, 0)
    # Room for all of it now: a spool that meets a full disk when it is needed is none.
    os.posix_fallocate(file, 0, size)
    os.ftruncate(file, size)
    _pwrite(file, memoryview(head), 0)
    os.fsync(file)
    sync_folder(path.parent)


def _head(capacity: int, entries: int) -> bytes:
    body = _HEAD.pack(MAGIC, VERSION, capacity, entries, 0)[:-8]
    return (body + hashing.xxh3(body).to_bytes(8, "little")).ljust(HEAD_BYTES, b"\0")


def _encode(chunk: Chunk, generation: bytes) -> bytes:
    body = _ENTRY.pack(chunk.begin, chunk.end, chunk.time_ns, chunk.total, generation, 0)
    return body + hashing.xxh3(body).to_bytes(8, "little")


def _decode(entry: bytes, generation: bytes) -> Chunk | None:
    body = entry[: _ENTRY.size]
    begin, end, time_ns, total, of, _ = _ENTRY.unpack(body)
    if of != generation or end <= begin or hashing.xxh3(body).to_bytes(8, "little") != entry[_ENTRY.size :]:
        return None
    return Chunk(begin, end, time_ns, total)


def _pwrite(file: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _unusable(path: Path, error: OSError) -> StorageError:
    cause, hint = error.strerror or str(error), f"df -h {path.parent}"
    if isinstance(error, BlockingIOError):
        cause, hint = "another process has it", f"fuser -v {path}"
    return StorageError(f"the spool {path} cannot be used", cause=cause, hint=hint)


def _damaged(path: Path, chunk: Chunk, cause: str) -> StorageError:
    return StorageError(f"the spool {path} is damaged", cause=f"positions {chunk.begin} to {chunk.end}: {cause}")
