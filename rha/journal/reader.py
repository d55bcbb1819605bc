"""Reading frames out of segment files, in the clear or encrypted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Self

from rha.buffers import BUFFERS
from rha.errors import StorageError
from rha.journal.folder import Segment, damaged
from rha.journal.sealing import Plain, Seal, SealHead
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType, Header


class Entry(NamedTuple):
    """A checked frame of the journal. `payload` is `header.length` bytes, padding included; positions in bytes."""

    position: int
    header: Header
    payload: memoryview
    next_position: int


class FrameFile:
    """A file of frames, open for reading. `seal`: how they stand in it; `first`: offset of the first one. Offsets are
    those of the file."""

    def __init__(self, segment: Segment) -> None:
        """Raises OSError, KeyMissing."""
        self.segment = segment
        self.file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self.seal: Seal = Plain()
        try:
            self.seal = self._find_seal()
        except BaseException:
            self.close()
            raise
        self.first = len(self.seal.head)

    def _find_seal(self) -> Seal:
        """A head that is damaged is not looked behind: whoever reads the first frame meets it."""
        try:
            if self.header(0).type is FrameType.SEAL:
                entry = self.entry(0)
                head = frames.decode_control(entry.header, entry.payload, SealHead)
                return self.segment.keys.open(head, self.segment.path)
        except BadFrame:
            pass
        return self.seal

    @property
    def size(self) -> int:
        return os.fstat(self.file).st_size

    def header(self, offset: int) -> Header:
        """The header of the frame at an offset, checked. Raises BadFrame."""
        raw = os.pread(self.file, self.seal.header_bytes, offset)
        return frames.decode_header(self.seal.header(raw, offset))

    def entry(self, offset: int) -> Entry:
        """The frame at an offset. Raises BadFrame when it is incomplete or a checksum does not fit."""
        seal = self.seal
        raw = os.pread(self.file, seal.header_bytes, offset)
        header = frames.decode_header(seal.header(raw, offset))
        length = header.length + seal.extra_bytes - (seal.header_bytes - frames.HEADER_BYTES)
        room = BUFFERS.take(length)
        stored = room[: os.preadv(self.file, [room], offset + seal.header_bytes)]
        payload = memoryview(seal.payload(stored, raw, offset))
        frames.check_payload(header, payload)
        start = self.segment.start
        return Entry(start + offset, header, payload, start + self.behind(header, offset))

    def behind(self, header: Header, offset: int) -> int:
        """Where the frame at an offset ends."""
        return offset + frames.HEADER_BYTES + header.length + self.seal.extra_bytes

    def close(self) -> None:
        os.close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def entries(segment: Segment, start: int, limit: int) -> Iterator[Entry]:
    """The frames of one segment from journal position `start`, those that begin below `limit`.

    Raises StorageError when a frame is damaged.
    """
    with FrameFile(segment) as file:
        offset = max(start - segment.start, file.first)
        while segment.start + offset < limit:
            try:
                entry = file.entry(offset)
            except BadFrame as error:
                raise damaged(segment.path, offset, f"{error.what}: {error.cause}") from error
            yield entry
            offset = entry.next_position - segment.start


class Place(NamedTuple):
    """A frame of the journal by its checked header. `segment`: where its bytes are."""

    position: int
    header: Header
    segment: Segment
    next_position: int

    def entry(self) -> Entry:
        """The whole frame, checked. Raises StorageError when it is damaged or no longer kept."""
        try:
            return next(entries(self.segment, self.position, self.position + 1))
        except OSError as error:
            raise StorageError(
                "a part of the journal is gone", cause=f"{self.segment.path}: {error.strerror}"
            ) from error


def places(segment: Segment, start: int, limit: int) -> Iterator[Place]:
    """The frames of one segment by their headers, those that begin in [start, limit).

    Raises StorageError when a header is damaged.
    """
    with FrameFile(segment) as file:
        offset = max(start - segment.start, file.first)
        while segment.start + offset < limit:
            try:
                header = file.header(offset)
            except BadFrame as error:
                raise damaged(segment.path, offset, f"{error.what}: {error.cause}") from error
            end = file.behind(header, offset)
            yield Place(segment.start + offset, header, segment, segment.start + end)
            offset = end


def sound_end(file: FrameFile) -> tuple[int, str]:
    """Where the run of sound frames in a file ends (offset), and why it goes no further: empty at the end of the file.

    0 when there is none, even behind a sound head.
    """
    offset, end, size = file.first, 0, file.size
    while offset < size:
        try:
            offset = end = file.entry(offset).next_position - file.segment.start
        except BadFrame as error:
            return end, f"{error.what}: {error.cause}"
    return end, ""
