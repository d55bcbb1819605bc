"""Frames read from a byte stream."""

from __future__ import annotations

import ssl

from rha.errors import NetworkError
from rha.wire import frames
from rha.wire.frames import HEADER_BYTES, Header

_CONTROL_BYTES = 1 << 20


class FrameReader:
    """Reads whole frames from a connected socket into one buffer, which grows to the largest payload seen and is used
    again: a payload is valid until the next `read`."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._head = bytearray(HEADER_BYTES)
        self._room = bytearray(_CONTROL_BYTES)

    def read(self) -> tuple[Header, memoryview]:
        """The next frame, header and payload checked.

        Raises NetworkError when the peer hangs up, BadFrame when the bytes are no frame, OSError from the socket.
        """
        self._fill(memoryview(self._head))
        header = frames.decode_header(bytes(self._head))
        if header.length > len(self._room):
            self._room = bytearray(header.length)
        payload = memoryview(self._room)[: header.length]
        self._fill(payload)
        frames.check_payload(header, payload)
        return header, payload

    def _fill(self, room: memoryview) -> None:
        done = 0
        while done < len(room):
            count = self._sock.recv_into(room[done:])
            if count == 0:
                raise NetworkError("the peer hung up", cause="the connection was closed", hint="rha status on the peer")
            done += count
