"""A byte stream from the network: damaged frames are refused, sound ones come out as they went in, compressed ones
never become more than they promise."""

from __future__ import annotations

from pathlib import Path

import harness

from rha.errors import NetworkError
from rha.wire.codec import Decompressor
from rha.wire.link import _Incoming
from rha.wire.stream import FrameReader


class Wire:
    """A socket whose peer said `data` and hung up; it comes in pieces of at most `step` bytes."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = memoryview(data), step

    def recv_into(self, room: memoryview) -> int:
        count = min(len(room), self._step, len(self._data))
        room[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def run(data: bytes, folder: Path) -> None:
    if len(data) < 2:
        return
    mode, step, data = data[0], 1 + data[1], data[2:]
    stream = b"".join(harness.frames_of(data)) if mode & 1 else data
    decompressor = Decompressor()
    if mode & 2:
        reader = FrameReader(Wire(stream, step))  # type: ignore[arg-type]
        while True:
            try:
                header, payload = reader.read()
            except NetworkError:
                return
            decompressor.unpack(header, payload)
    incoming, at = _Incoming(), 0
    while at < len(stream):
        room = incoming.room()
        part = stream[at : at + min(step, len(room))]
        room[: len(part)] = part
        at += len(part)
        if found := incoming.advance(len(part)):
            header, payload = decompressor.unpack(*found)
            assert len(payload) == header.length
