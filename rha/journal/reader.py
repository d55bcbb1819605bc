"""Reading frames out of segment files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from rha.errors import StorageError
from rha.journal.folder import Segment, damaged
from rha.wire import frames


class Entry(NamedTuple):
    """A checked frame of the journal. `payload` is `header.length` bytes, padding included; positions in bytes."""

    position: int
    header: frames.Header
    payload: memoryview
    next_position: int


def frame_at(file: int, segment: Segment, offset: int) -> Entry:
    """The frame at a file offset.

    Raises frames.BadFrame when it is incomplete or a checksum does not fit.
    """
    header = frames.decode_header(os.pread(file, frames.HEADER_BYTES, offset))
    payload = memoryview(os.pread(file, header.length, offset + frames.HEADER_BYTES))
    frames.check_payload(header, payload)
    position = segment.start + offset
    return Entry(position, header, payload, position + frames.HEADER_BYTES + header.length)


def entries(segment: Segment, start: int, limit: int) -> Iterator[Entry]:
    """The frames of one segment from journal position `start`, those that begin below `limit`.

    Raises StorageError when a frame is damaged.
    """
    file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < limit:
            try:
                entry = frame_at(file, segment, start - segment.start)
            except frames.BadFrame as error:
                raise damaged(segment.path, start - segment.start, f"{error.what}: {error.cause}") from error
            yield entry
            start = entry.next_position
    finally:
        os.close(file)


class Place(NamedTuple):
    """A frame of the journal by its checked header. `segment`: where its bytes are."""

    position: int
    header: frames.Header
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
    file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < limit:
            offset = start - segment.start
            try:
                header = frames.decode_header(os.pread(file, frames.HEADER_BYTES, offset))
            except frames.BadFrame as error:
                raise damaged(segment.path, offset, f"{error.what}: {error.cause}") from error
            place = Place(start, header, segment, start + frames.HEADER_BYTES + header.length)
            yield place
            start = place.next_position
    finally:
        os.close(file)


def sound_end(segment: Segment) -> tuple[int, str]:
    """Where the run of sound frames in a segment ends (journal position), and why it goes no further.

    The reason is empty at the end of the file.
    """
    file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        offset, size = 0, os.fstat(file).st_size
        while offset < size:
            try:
                offset = frame_at(file, segment, offset).next_position - segment.start
            except frames.BadFrame as error:
                return segment.start + offset, f"{error.what}: {error.cause}"
        return segment.start + offset, ""
    finally:
        os.close(file)
