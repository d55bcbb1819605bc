"""An appliance that only acknowledges: it speaks the wire protocol, keeps nothing and says that all of it is durable.

What is measured against it is the price on the master, with no journal or image on the same processors and disk. Not a
part of the product: it confirms what it does not have. `python -m bench.acknowledger ADDRESS CA CERTIFICATE KEY`
serves one master after another until it is killed.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from pathlib import Path

from rha import __version__
from rha.errors import RhaError
from rha.wire import frames, tls
from rha.wire.frames import HEADER_BYTES, FrameType, Header
from rha.wire.messages import PROTOCOL, Ack, DiskNeed, Hello, Welcome

GROUP_BYTES = 16 << 20  # as the appliance's own groups, rha/appliance/receive.py
SILENCE_SECONDS = 60.0


class Acknowledger:
    """Remembers one generation: a master that it has seen before has missed nothing, a new one needs a full sync."""

    def __init__(self) -> None:
        self._generation = ""
        self._room = memoryview(bytearray(1 << 20))

    def serve(self, sock: ssl.SSLSocket) -> None:
        """One connection, to its end. Raises RhaError or OSError, also when the master hangs up."""
        durable = self._greet(sock)
        while True:
            size, seq = 0, 0
            while size < GROUP_BYTES and (not seq or _readable(sock)):
                header = self._skip(sock)
                size, seq = size + header.length, header.seq
                if header.type is FrameType.RECORDS:
                    durable = header.lsn + header.raw_length
            sock.sendall(frames.control(FrameType.ACK, Ack(durable_lsn=durable, seq=seq, applied_lsn=durable)))

    def _greet(self, sock: ssl.SSLSocket) -> int:
        """HELLO and WELCOME, once more for a generation without LSNs. Returns the LSN where the stream goes on."""
        hello = self._hello(sock)
        if hello.first_lsn == 0:
            sock.sendall(frames.control(FrameType.WELCOME, self._welcome(hello)))
            hello = self._hello(sock)
        sock.sendall(frames.control(FrameType.WELCOME, self._welcome(hello)))
        self._generation = hello.generation
        return hello.first_lsn

    def _welcome(self, hello: Hello) -> Welcome:
        is_known = hello.generation == self._generation
        return Welcome(
            protocol=PROTOCOL,
            version=__version__,
            host="acknowledger",
            generation_known=is_known,
            durable_lsn=hello.first_lsn,
            lsn_floor=0,
            disks=[DiskNeed(name=disk.name, need="nothing" if is_known else "full") for disk in hello.disks],
        )

    def _hello(self, sock: ssl.SSLSocket) -> Hello:
        head = bytearray(HEADER_BYTES)
        _fill(sock, memoryview(head))
        header = frames.decode_header(head)
        payload = bytearray(header.length)
        _fill(sock, memoryview(payload))
        return frames.decode_control(header, payload, Hello)

    def _skip(self, sock: ssl.SSLSocket) -> Header:
        """The next frame's header; its payload is read and dropped."""
        _fill(sock, self._room[:HEADER_BYTES])
        header = frames.decode_header(bytes(self._room[:HEADER_BYTES]))
        left = header.length
        while left:
            left -= _some(sock, self._room[: min(left, len(self._room))])
        return header


def _readable(sock: ssl.SSLSocket) -> bool:
    return bool(sock.pending() or select.select([sock], [], [], 0)[0])


def _some(sock: ssl.SSLSocket, room: memoryview) -> int:
    count = sock.recv_into(room)
    if not count:
        raise ConnectionError("the master hung up")
    return count


def _fill(sock: ssl.SSLSocket, room: memoryview) -> None:
    done = 0
    while done < len(room):
        done += _some(sock, room[done:])


def serve_next(listener: socket.socket, context: ssl.SSLContext, one: Acknowledger) -> None:
    raw, _ = listener.accept()
    try:
        sock, _ = tls.accept(raw, context, SILENCE_SECONDS)
        with sock:
            one.serve(sock)
    except (RhaError, OSError) as error:
        print(f"acknowledger: {error}", file=sys.stderr, flush=True)


def main() -> None:
    address, *files = sys.argv[1:]
    context = tls.server_context(*map(Path, files))
    one = Acknowledger()
    with tls.listen(address) as listener:
        while True:
            serve_next(listener, context, one)


if __name__ == "__main__":
    main()
