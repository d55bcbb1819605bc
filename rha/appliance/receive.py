"""One master's connection: frames in, durable, acknowledged; digests compared.

One thread owns the TLS connection, for reading and writing. It reads as long as something is there, up to a group's
size or time, then makes the group durable with one fsync and acknowledges it: the more is under way, the fewer the
fsyncs.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable

from rha.appliance.replica import Replica
from rha.errors import NetworkError, RhaError
from rha.sync.blocks import BLOCK_BYTES, DIGEST_BYTES, differing, digests
from rha.wire import frames, tls
from rha.wire.frames import BadFrame, FrameType, Header
from rha.wire.messages import Ack, Hello, Refuse, Welcome
from rha.wire.stream import FrameReader

GROUP_BYTES = 16 << 20
GROUP_SECONDS = 0.05
SILENCE_SECONDS = 30.0  # the engine sends a heartbeat every second or so
_TICK_SECONDS = 0.5


class Connection:
    """Serves one accepted and authenticated connection until it ends. `stop` may be called from any thread."""

    def __init__(self, sock: ssl.SSLSocket, peer: str) -> None:
        self._sock, self._peer = sock, peer
        self._reader = FrameReader(sock)
        self._stopped = False
        self._sent_applied = 0

    def greet(self, replica_for: Callable[[Hello], Replica]) -> Replica:
        """HELLO and WELCOME. `replica_for(hello)` gives the scenario's replica, with this connection as its only one.
        An engine whose LSNs lie below what the appliance has seen begins a new generation and greets once more.

        Raises RhaError, after the engine was told why.
        """
        hello = self._read_hello()
        try:
            replica = replica_for(hello)
            welcome = self._welcome(replica, hello)
            if not welcome.generation_known and hello.first_lsn <= welcome.lsn_floor:
                welcome = self._welcome(replica, self._read_hello())
        except RhaError as error:
            self.refuse(error)
            raise
        return replica

    def _read_hello(self) -> Hello:
        header, payload = self._reader.read()
        if header.type is not FrameType.HELLO:
            raise BadFrame("the engine does not greet", cause=f"{header.type.name} instead of HELLO")
        return frames.decode_control(header, payload, Hello)

    def _welcome(self, replica: Replica, hello: Hello) -> Welcome:
        raw = frames.control(FrameType.HELLO, hello, lsn=hello.first_lsn)
        welcome = replica.welcome(hello, raw, socket.gethostname())
        self._send(FrameType.WELCOME, welcome)
        return welcome

    def refuse(self, error: RhaError, *, final: bool = False) -> None:
        """Tells the engine why the connection ends."""
        self._send(FrameType.REFUSE, Refuse(error=error.what, cause=error.cause, hint=error.hint, final=final))

    def stop(self) -> None:
        """Ends `serve` soon."""
        self._stopped = True

    def serve(self, replica: Replica) -> None:
        """Takes the stream until the connection ends or `stop` is called.

        Raises NetworkError when the link fails, BadFrame or StorageError after telling the engine.
        """
        comparer = _Comparer(replica)
        comparer.start()
        heard = time.monotonic()
        try:
            while not self._stopped:
                last = self._take_group(replica, comparer)
                if last is not None:
                    heard = time.monotonic()
                    self._acknowledge(replica, last)
                replica.tend()
                self._send_answers(comparer)
                if time.monotonic() - heard > SILENCE_SECONDS:
                    raise NetworkError(f"{self._peer} is silent", cause=f"nothing for {SILENCE_SECONDS:.0f} s")
        except NetworkError:
            raise
        except RhaError as error:
            self.refuse(error)
            raise
        finally:
            comparer.stop()

    def _take_group(self, replica: Replica, comparer: _Comparer) -> int | None:
        """Reads one group of frames into the journal. Returns the number of its last frame, None when there was
        none."""
        size, last, end = 0, None, 0.0
        while size < GROUP_BYTES and self._readable(comparer, 0.0 if last is not None else _TICK_SECONDS, replica):
            header, payload = self._reader.read()
            end = end or time.monotonic() + GROUP_SECONDS
            size, last = size + header.length, header.seq
            if header.type is FrameType.HASHES:
                replica.commit()
                comparer.ask(header, bytes(payload[: header.raw_length]), replica.journal_end)
            else:
                replica.take(header, payload)
            if time.monotonic() > end:
                break
        return last

    def _readable(self, comparer: _Comparer, seconds: float, replica: Replica) -> bool:
        if self._sock.pending():
            return True
        if replica.spool_full():
            time.sleep(_TICK_SECONDS if seconds else 0)
            return False
        ready = select.select([self._sock.fileno(), comparer.wake_fd], [], [], seconds)[0]
        return self._sock.fileno() in ready

    def _acknowledge(self, replica: Replica, seq: int) -> None:
        durable = replica.commit()
        self._send(FrameType.ACK, Ack(durable_lsn=durable, seq=seq, applied_lsn=replica.applied_lsn))

    def _send_answers(self, comparer: _Comparer) -> None:
        for header, flags in comparer.answers():
            payload = frames.pad(flags)
            head = frames.encode(
                FrameType.DIFFERS, payload, disk=header.disk, offset=header.offset, raw_length=len(flags)
            )
            with tls.explain(f"answering {self._peer} failed"):
                self._sock.sendall(head + payload)

    def _send(self, type: FrameType, message: object) -> None:
        with tls.explain(f"answering {self._peer} failed"):
            self._sock.sendall(frames.control(type, message))


class _Comparer(threading.Thread):
    """Compares digests with the images, beside the receiver. A question is answered from the images as they are once
    everything that stood before it in the stream is applied: an older image might agree by chance with what later
    records undo."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(name=f"compare-{replica.name}", daemon=True)
        self._replica = replica
        self._questions: queue.SimpleQueue[tuple[Header, bytes, int] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Header, bytes]] = queue.SimpleQueue()
        self._failure: RhaError | None = None
        self.wake_fd, self._wake = os.pipe()

    def ask(self, header: Header, theirs: bytes, position: int) -> None:
        """One HASHES frame; `position` is the journal's end behind what stood before it. Raises BadFrame."""
        if not theirs or len(theirs) % DIGEST_BYTES or header.offset % BLOCK_BYTES:
            raise BadFrame("digests that fit no blocks", cause=f"{len(theirs)} bytes at {header.offset}")
        self._questions.put((header, theirs, position))

    def answers(self) -> list[tuple[Header, bytes]]:
        """What is answered by now. Raises what the comparison died of."""
        if self._failure:
            raise self._failure
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        if found:
            os.read(self.wake_fd, 1 << 16)
        return found

    def run(self) -> None:
        try:
            while (question := self._questions.get()) is not None:
                self._answers.put((question[0], self._compare(*question)))
                os.write(self._wake, b"\0")
        except RhaError as error:
            self._failure = error
            os.write(self._wake, b"\0")

    def _compare(self, header: Header, theirs: bytes, position: int) -> bytes:
        self._replica.wait_applied(position)
        blocks, size = len(theirs) // DIGEST_BYTES, self._replica.disk_bytes(header.disk)
        length = min(blocks * BLOCK_BYTES, size - header.offset)
        if length <= (blocks - 1) * BLOCK_BYTES:
            raise BadFrame("digests beyond the end of the disk", cause=f"{blocks} blocks at {header.offset} of {size}")
        mine = digests(memoryview(self._replica.read_image(header.disk, header.offset, length)))
        return differing(mine, theirs)

    def stop(self) -> None:
        self._questions.put(None)
        self.join()
        os.close(self.wake_fd)
        os.close(self._wake)
