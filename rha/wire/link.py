"""Frames both ways over one TLS connection, without either direction waiting for the other.

One thread owns it: an OpenSSL connection is not safe for two. The socket does not block; what the peer does not take
yet waits here, and what it says meanwhile is read.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import deque

from rha.buffers import BUFFERS
from rha.errors import NetworkError, RhaError
from rha.hashing import Buffer
from rha.wire import frames
from rha.wire.frames import HEADER_BYTES, Header

SLICE_BYTES = 64 << 10  # per call into OpenSSL: four TLS records
TURN_BYTES = 4 << 20  # read before the other direction has its turn
_TCP_NOTSENT_LOWAT = 25  # include/uapi/linux/tcp.h
NOTSENT_BYTES = 256 << 10  # waiting in the kernel: more would only stand before the next heartbeat

Frame = tuple[Header, memoryview]


class Link:
    """Takes over a connected socket after the greeting. Errors of the socket come as OSError."""

    def __init__(self, sock: ssl.SSLSocket, wake_fd: int | None = None) -> None:
        """`wake_fd`: becomes readable when `step` should return early; the caller empties it."""
        self._sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        self._poll = select.poll()
        self._wake_fd = wake_fd
        if wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)
        self._out: deque[memoryview] = deque()
        self._incoming = _Incoming()
        self.out_bytes = 0  # posted and not yet taken by the kernel
        self.sent_bytes = 0
        self.last_heard = time.monotonic()  # any byte of the peer counts: a large frame may be long under way
        self.last_taken = time.monotonic()  # when the kernel took a byte, or nothing was left to be sent
        self.busy_seconds = 0.0  # with something to send
        self.blocked_seconds = 0.0  # of these: while the kernel took nothing

    def post(self, *parts: Buffer) -> None:
        """Queues a frame, in any number of parts, which must not change until `out_bytes` is 0."""
        for part in parts:
            view = memoryview(part).cast("B")
            if view.nbytes:
                self._out.append(view)
                self.out_bytes += view.nbytes

    def step(self, timeout: float, *, read: bool = True) -> list[Frame]:
        """Sends and reads what can be; waits up to `timeout` seconds when nothing can. Payloads are the caller's to
        keep. `read`: False leaves what the peer says where it is.

        Raises NetworkError when the peer hangs up, BadFrame, OSError.
        """
        begin, sending = time.monotonic(), bool(self._out)
        moved = self._send() > 0
        found = self._read() if read else []
        if not found and not moved and not (read and self._sock.pending()):
            self._wait(timeout, read)
            found = self._read() if read else []
            self._send()
        if sending:
            self.busy_seconds += time.monotonic() - begin
        return found

    def flush(self, timeout: float) -> None:
        """Sends what is posted; gives up after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._out and time.monotonic() < end:
            if not self._send():
                self._wait(0.05, False)

    def last_words(self) -> list[Frame]:
        """What the peer had said before the connection failed."""
        with contextlib.suppress(OSError, RhaError):
            return self._read()
        return []

    def _wait(self, timeout: float, read: bool) -> None:
        events = (select.POLLIN if read else 0) | (select.POLLOUT if self._out else 0)
        self._poll.register(self._sock, events)
        begin = time.monotonic()
        self._poll.poll(timeout * 1000)
        if self._out:
            self.blocked_seconds += time.monotonic() - begin

    def _send(self) -> int:
        """Bytes that the kernel took."""
        before = self.sent_bytes
        if not self._out:
            self.last_taken = time.monotonic()
        while self._out:
            view = self._out[0]
            try:
                count = self._sock.send(view[:SLICE_BYTES])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                break
            self.sent_bytes += count
            self.out_bytes -= count
            self.last_taken = time.monotonic()
            if count < view.nbytes:
                self._out[0] = view[count:]
            else:
                self._out.popleft()
        return self.sent_bytes - before

    def _read(self) -> list[Frame]:
        found: list[Frame] = []
        left = TURN_BYTES
        while left > 0:
            try:
                count = self._sock.recv_into(self._incoming.room())
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                if found:
                    break  # what came before the end counts: perhaps it says why. The next read fails again
                raise
            if count == 0 and found:
                break
            if count == 0:
                raise NetworkError("the peer hung up", cause="the connection was closed", hint="rha status on the peer")
            self.last_heard = time.monotonic()
            left -= count
            frame = self._incoming.advance(count)
            if frame:
                found.append(frame)
        return found


class _Incoming:
    """One frame being put together."""

    def __init__(self) -> None:
        self._head = bytearray(HEADER_BYTES)
        self._begin()

    def _begin(self) -> None:
        self._header: Header | None = None
        self._target = memoryview(self._head)
        self._done = 0

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._target[self._done :]

    def advance(self, count: int) -> Frame | None:
        """`count` bytes were put into `room`. The frame when it is complete, checked. Raises BadFrame."""
        self._done += count
        if self._done < len(self._target):
            return None
        if self._header is None:
            self._header = frames.decode_header(bytes(self._head))
            self._target, self._done = BUFFERS.take(self._header.length), 0
            if self._header.length:
                return None
        header, payload = self._header, self._target
        frames.check_payload(header, payload)
        self._begin()
        return header, payload
