"""One receiver's connection: the appliance's end of a switchback's line.

Its own thread serves the line (`serve`); the thread that switches back asks for digests, sends content and gives
orders. What it says is done by the receiver in that order.
"""

from __future__ import annotations

import queue
import ssl
import threading
import time
from collections import deque
from typing import Any

from rha.errors import NetworkError, RhaError
from rha.hashing import Buffer
from rha.sync.blocks import DIGEST_BYTES
from rha.wire import frames, tls
from rha.wire.codec import Packed
from rha.wire.frames import BadFrame, FrameType
from rha.wire.link import Frame, Link
from rha.wire.messages import Answer, Heartbeat, Offer, Refuse, Taken, Want
from rha.wire.orders import Asker
from rha.wire.wake import Wake

OUT_BYTES = 16 << 20  # given and not yet taken by the line
BEAT_SECONDS, SILENCE_SECONDS = 1.0, 30.0
ANSWER_SECONDS = 120.0  # for the digests of a piece: what stands before it has to be written first
_FAREWELL_SECONDS = 2.0
DIGESTS_BYTES, DIGESTS_WAITING = 64 << 10, 8192  # of one answer, and answers: far more than is ever asked for at once
_VERBS = ("sync", "finish")


class Offered:
    """`offer`: what the receiver greeted with. `stop` ends `serve` soon, from any thread."""

    def __init__(self, sock: ssl.SSLSocket, peer: str, offer: Offer) -> None:
        self._sock, self.peer, self.offer = sock, peer, offer
        self._hashes: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._waiting: deque[tuple[Buffer, ...]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._ended = ""
        self._stopped = False
        self._seq = 0
        self._wake: Wake | None = None
        self._asker = Asker(_VERBS, self._wake_up)
        self.sent_bytes = 0

    @property
    def id(self) -> str:
        """Of this run of the receiver."""
        return self.offer.receiver

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the offered disks by name."""
        return {disk.name: disk.bytes for disk in self.offer.disks}

    # The line's thread ----------------------------------------------------------------------------------------

    def take(self, taken: Taken) -> None:
        """Tells the receiver that its offer is known. Raises NetworkError."""
        self._tell(frames.control(FrameType.TAKEN, taken))

    def refuse(self, error: RhaError, *, final: bool) -> None:
        """Tells the receiver why not. Raises NetworkError."""
        message = Refuse(error=error.what, cause=error.cause, hint=error.hint, final=final)
        self._tell(frames.control(FrameType.REFUSE, message))

    def _tell(self, frame: bytes) -> None:
        with tls.explain(f"answering {self.peer} failed"):
            self._sock.sendall(frame)

    def serve(self) -> None:
        """Until the connection ends or `stop`. Raises NetworkError, BadFrame, and the receiver's own refusal."""
        why = "the receiver's connection was closed"
        try:
            with Wake() as wake, tls.explain(f"the connection of {self.peer} failed"):
                self._wake = wake
                self._loop(Link(self._sock, wake.fd), wake)
        except RhaError as error:
            why = f"{error.what}: {error.cause}" if error.cause else error.what
            raise
        finally:
            self._end(why)

    def _end(self, why: str) -> None:
        with self._changed:
            self._ended, self._wake = why, None
            self._changed.notify_all()
        self._asker.close(why)

    def _loop(self, link: Link, wake: Wake) -> None:
        next_beat = 0.0
        while not self._stopped:
            for header, payload in link.step(BEAT_SECONDS / 2):
                self._hear(header, payload)
            wake.clear()
            for order in self._asker.due():
                self._queue(frames.control(FrameType.ORDER, order))
            self._post(link)
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + BEAT_SECONDS
                link.post(frames.control(FrameType.HEARTBEAT, Heartbeat(time=time.time(), captured_lsn=0)))
            if now - link.last_heard > SILENCE_SECONDS:
                raise NetworkError(f"{self.peer} is silent", cause=f"nothing for {SILENCE_SECONDS:.0f} s")
        link.flush(_FAREWELL_SECONDS)

    def _hear(self, header: frames.Header, payload: memoryview) -> None:
        if header.type is FrameType.HASHES:
            if header.length > DIGESTS_BYTES or self._hashes.qsize() > DIGESTS_WAITING:
                raise BadFrame("more digests than were asked for", cause=f"{header.length} bytes at {header.offset}")
            self._hashes.put((header, payload))
            with self._changed:
                self._changed.notify_all()
        elif header.type is FrameType.ANSWER:
            self._asker.take(frames.decode_control(header, payload, Answer))
        elif header.type is FrameType.REFUSE:
            said = frames.decode_control(header, payload, Refuse)
            raise RhaError(f"the receiver gave up: {said.error}", cause=said.cause, hint=said.hint)
        elif header.type is not FrameType.HEARTBEAT:
            raise BadFrame("a frame out of turn", cause=f"{header.type.name} from a receiver")

    def _post(self, link: Link) -> None:
        """Hands over what waits; the link itself holds little, so that a heartbeat is never far behind."""
        with self._changed:
            while self._waiting and link.out_bytes < OUT_BYTES // 4:
                parts = self._waiting.popleft()
                size = sum(map(len, parts))
                link.post(*parts)
                self._waiting_bytes -= size
                self.sent_bytes += size
            self._changed.notify_all()

    def stop(self) -> None:
        self._stopped = True
        self._wake_up()

    def _wake_up(self) -> None:
        with self._changed:
            if self._wake:
                self._wake.set()

    # The thread that switches back ----------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return not (self._ended or self._stopped)

    def want(self, disk: int, unit: int, ranges: list[tuple[int, int]]) -> None:
        """Asks for digests; `hashes` has them, in that order. Raises NetworkError when the connection has ended."""
        self._give(frames.control(FrameType.WANT, Want(disk=disk, unit=unit, ranges=ranges)))

    def send(self, disk: int, offset: int, packed: Packed) -> None:
        """Content of a range. Blocks while the line is behind. Raises NetworkError when the connection has ended."""
        head = frames.encode(
            FrameType.RESYNC,
            packed.payload,
            disk=disk,
            offset=offset,
            raw_length=packed.raw_length,
            codec=packed.codec,
            pad=packed.pad,
            raw_sum=packed.raw_sum,
        )
        self._give(head, packed.payload)

    def send_zeros(self, disk: int, offset: int, length: int) -> None:
        """As `send`."""
        payload = frames.zeros_payload(length)
        flags = frames.FLAG_ZEROS
        self._give(frames.encode(FrameType.RESYNC, payload, disk=disk, offset=offset, flags=flags), payload)

    def _give(self, *parts: Buffer) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting_bytes < OUT_BYTES)
            self._refuse_if_ended()
            self._queue(*parts)
        self._wake_up()

    def _queue(self, *parts: Buffer) -> None:
        with self._changed:
            self._waiting.append(parts)
            self._waiting_bytes += sum(map(len, parts))

    def hashes(self) -> tuple[int, int, int, bytes]:
        """The next answer to `want`: disk, offset, unit's flag, digests. Raises NetworkError, BadFrame."""
        with self._changed:
            heard = self._changed.wait_for(lambda: self._ended or not self._hashes.empty(), ANSWER_SECONDS)
            if self._hashes.empty():
                self._refuse_if_ended()
                assert not heard
                raise NetworkError(f"{self.peer} does not answer", cause=f"no digests within {ANSWER_SECONDS:.0f} s")
        header, payload = self._hashes.get()
        found = bytes(payload[: header.raw_length])
        if not found or len(found) % DIGEST_BYTES:
            raise BadFrame("digests that fit no blocks", cause=f"{len(found)} bytes at {header.offset}")
        return header.disk, header.offset, header.flags, found

    def settle(self, limit: float) -> None:
        """Forgets the answers to questions of whoever has used this connection before and broke off. As `ask`."""
        self.ask("sync", limit)  # it is answered behind them
        while not self._hashes.empty():
            self._hashes.get()

    def ask(self, verb: str, limit: float) -> Any:
        """`sync`: everything sent is on stable storage; `finish`: the same, and the receiver ends well. As
        Asker.ask."""
        try:
            return self._asker.ask(verb, limit)
        except NetworkError as error:
            what = f"whether the receiver has done {verb!r} is not known"
            raise NetworkError(what, cause=error.cause, hint=error.hint, code=error.code) from error

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise NetworkError("the receiver is gone", cause=self._ended, hint="rha receive on the master")
