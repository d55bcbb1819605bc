"""A repaired master takes back what its substitute has: the receiver's side of a switchback.

It connects, as the engine does, and nothing listens here. It says which disks may be overwritten and then does what the
appliance says, in the order in which it was said: digests of ranges (WANT, answered by HASHES), content (RESYNC), and
the orders `sync` and `finish`. It decides nothing and keeps nothing: after a break the appliance compares anew.

One thread owns the connection, another the disks. What was read from the line and is not yet on the disks is bounded by
not reading on: what the appliance has to say then is only more work, and heartbeats go out meanwhile.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rha
from rha.engine.target import BUFFER_BYTES, Target
from rha.errors import NetworkError, RhaError
from rha.sync.blocks import UNITS, digests
from rha.sync.fitting import why_not_fitting
from rha.wire import frames, tls
from rha.wire.codec import Decompressor
from rha.wire.frames import HEADER_BYTES, BadFrame, FrameType, Header
from rha.wire.link import Frame, Link
from rha.wire.messages import PROTOCOL, Heartbeat, Offer, OfferedDisk, Order, Refuse, Taken, Want
from rha.wire.orders import Handler, perform
from rha.wire.stream import FrameReader
from rha.wire.wake import Wake

HOLD_BYTES = 32 << 20  # read from the line and not yet done
OUT_BYTES = 4 << 20  # of digests that the line has not taken
WANT_RANGES, WANT_BYTES = 4096, 1 << 30  # of one frame
BEAT_SECONDS, SILENCE_SECONDS = 1.0, 30.0
GREETING_SECONDS = 60.0
_FAREWELL_SECONDS = 5.0


class Refused(NetworkError):
    """The appliance does not take the offer. `final`: not before a person acts."""

    final = False


@dataclass
class Done:
    """What one session has done so far, in bytes; read from other threads."""

    compared: int = 0
    written: int = 0
    zeroed: int = 0


def offer_of(scenario: str, receiver: str, targets: Sequence[Target]) -> Offer:
    return Offer(
        protocol=PROTOCOL,
        version=rha.__version__,
        scenario=scenario,
        host=socket.gethostname(),
        receiver=receiver,
        disks=[OfferedDisk(name=target.name, bytes=target.bytes, device=target.path) for target in targets],
    )


class Session:
    """One connection. `greet`, then `run`."""

    def __init__(self, sock: ssl.SSLSocket, offer: Offer, targets: Sequence[Target]) -> None:
        self._sock, self._offer, self._targets = sock, offer, list(targets)
        self.done = Done()
        self._seq = 0
        self._stopped = False
        self.is_finished = False  # everything is here, and the appliance was told so

    def greet(self) -> Taken:
        """OFFER and its answer. Raises Refused, NetworkError, BadFrame, DeviceError."""
        self._sock.sendall(frames.control(FrameType.OFFER, self._offer))
        self._sock.settimeout(GREETING_SECONDS)
        with tls.explain("the appliance did not answer"):
            header, payload = FrameReader(self._sock).read()
        if header.type is FrameType.REFUSE:
            raise _refused(header, payload)
        if header.type is not FrameType.TAKEN:
            raise BadFrame("the appliance answers out of turn", cause=f"{header.type.name} instead of TAKEN")
        taken = frames.decode_control(header, payload, Taken)
        known = {target.name: target for target in self._targets}
        wanted = dict(zip(taken.disks, taken.bytes, strict=False))
        if error := why_not_fitting(wanted, {name: target.bytes for name, target in known.items()}):
            self._sock.sendall(frames.control(FrameType.REFUSE, _refusal(error)))
            raise error
        self._targets = [known[name] for name in wanted]
        return taken

    def stop(self) -> None:
        """Ends `run` soon; may be called from any thread."""
        self._stopped = True

    def run(self) -> bool:
        """Serves until the appliance says that everything is here, and hangs up on the answer (True); or until `stop`
        (False).

        Raises NetworkError when the link fails, Refused, BadFrame, and DeviceError; the appliance was told, then.
        """
        with Wake() as wake:
            worker = _Worker(self._targets, self.done, wake)
            worker.start()
            link = Link(self._sock, wake.fd)
            try:
                with tls.explain("the link to the appliance failed"):
                    return self._loop(link, worker, wake)
            except NetworkError:
                raise
            except RhaError as error:
                self._say(link, FrameType.REFUSE, _refusal(error))
                link.flush(_FAREWELL_SECONDS)
                raise
            finally:
                worker.stop()

    def _loop(self, link: Link, worker: _Worker, wake: Wake) -> bool:
        next_beat = 0.0
        told = 0  # the answer to `finish` ends at this byte of what is sent
        while not self._stopped:
            is_full = worker.held > HOLD_BYTES
            try:
                found = link.step(BEAT_SECONDS / 2, read=not is_full)
            except (NetworkError, OSError):
                # The appliance hangs up once it has the answer. Has it not, it waits; the disks are verified by then.
                self.is_finished = 0 < told <= link.sent_bytes
                if self.is_finished:
                    return True
                raise
            for header, payload in found:
                if header.type is FrameType.REFUSE:
                    raise _refused(header, payload)
                if header.type is not FrameType.HEARTBEAT:
                    worker.put((header, payload))
            wake.clear()
            is_finished = worker.is_finished  # looked at first: its answer is due by then
            for parts in worker.due():
                link.post(*parts)
            if is_finished and not told:
                told = link.sent_bytes + link.out_bytes
            worker.may_go_on(link.out_bytes < OUT_BYTES)
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + BEAT_SECONDS
                self._say(link, FrameType.HEARTBEAT, Heartbeat(time=time.time(), captured_lsn=0))
            if not is_full and now - link.last_heard > SILENCE_SECONDS:
                raise NetworkError("the appliance is silent", cause=f"nothing heard for {SILENCE_SECONDS:.0f} s")
        return False

    def _say(self, link: Link, type: FrameType, message: object) -> None:
        self._seq += 1
        link.post(frames.control(type, message, seq=self._seq))


class _Worker(threading.Thread):
    """Does what was said, in that order: an order stands behind the content that came before it."""

    def __init__(self, targets: Sequence[Target], done: Done, wake: Wake) -> None:
        super().__init__(name="receive", daemon=True)
        self._targets, self._done, self._wake = targets, done, wake
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._due: queue.SimpleQueue[tuple[bytes, ...]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0
        self._room = threading.Event()
        self._room.set()
        self._failure: BaseException | None = None
        self._stopping = False
        self._decompressor = Decompressor()
        self.is_finished = False
        self._handlers: dict[str, Handler] = {"sync": self._sync, "finish": self._sync}

    @property
    def held(self) -> int:
        """Bytes that were read and are not done."""
        with self._lock:
            return self._held

    def put(self, frame: Frame) -> None:
        with self._lock:
            self._held += HEADER_BYTES + frame[0].length
        self._frames.put(frame)

    def due(self) -> list[tuple[bytes, ...]]:
        """What is to be sent now. Raises what the work died of."""
        if self._failure:
            raise self._failure
        found = []
        while not self._due.empty():
            found.append(self._due.get())
        return found

    def may_go_on(self, has_room: bool) -> None:
        """Lets digests be made while the line takes them."""
        if has_room:
            self._room.set()
        else:
            self._room.clear()

    def stop(self) -> None:
        self._stopping = True
        self._room.set()
        self._frames.put(None)
        self.join()

    def run(self) -> None:
        try:
            while (frame := self._frames.get()) is not None and not self._stopping:
                header, payload = frame
                self._take(header, payload)
                with self._lock:
                    self._held -= HEADER_BYTES + header.length
                self._wake.set()
        except BaseException as error:  # noqa: BLE001 - raised again in the connection's thread
            self._failure = error
            self._wake.set()

    def _take(self, header: Header, payload: memoryview) -> None:
        if header.type is FrameType.WANT:
            self._digest(frames.decode_control(header, payload, Want))
        elif header.type is FrameType.RESYNC:
            self._write(*self._decompressor.unpack(header, payload))
        elif header.type is FrameType.ORDER:
            self._obey(frames.decode_control(header, payload, Order))
        else:
            raise BadFrame("a frame out of turn", cause=f"{header.type.name} to a receiver")

    def _disk(self, index: int) -> Target:
        if not 0 <= index < len(self._targets):
            raise BadFrame("a disk that was not offered", cause=f"index {index} of {len(self._targets)}")
        return self._targets[index]

    def _digest(self, want: Want) -> None:
        target, unit = self._disk(want.disk), UNITS.get(want.unit)
        total = sum(length for _, length in want.ranges)
        if unit is None or len(want.ranges) > WANT_RANGES or total > WANT_BYTES:
            raise BadFrame("a question that cannot be answered", cause=f"unit {want.unit}, {total} bytes")
        for offset, length in want.ranges:
            if offset % unit or length <= 0:
                raise BadFrame("digests that fit no blocks", cause=f"{length} bytes at {offset}, unit {unit}")
            for at in range(offset, offset + length, BUFFER_BYTES):
                self._digest_piece(target, want, unit, at, min(BUFFER_BYTES, offset + length - at))

    def _digest_piece(self, target: Target, want: Want, unit: int, offset: int, length: int) -> None:
        self._room.wait()
        found = digests(target.read(offset, length), unit)
        self._done.compared += length
        head = frames.encode(FrameType.HASHES, found, disk=want.disk, offset=offset, flags=want.unit)
        self._due.put((head, found))
        self._wake.set()

    def _write(self, header: Header, payload: memoryview) -> None:
        target = self._disk(header.disk)
        if header.flags & frames.FLAG_ZEROS:
            length = frames.zeros_length(payload)
            target.zero(header.offset, length)
            self._done.zeroed += length
        else:
            target.write(header.offset, payload[: header.raw_length])
            self._done.written += header.raw_length

    def _sync(self) -> dict[str, Any]:
        for target in self._targets:
            target.sync()
        return {"written": self._done.written, "zeroed": self._done.zeroed}

    def _obey(self, order: Order) -> None:
        answer = perform(self._handlers, order)
        self._due.put((frames.control(FrameType.ANSWER, answer),))
        self.is_finished = self.is_finished or (order.verb == "finish" and answer.what is None)


def _refused(header: Header, payload: memoryview) -> Refused:
    message = frames.decode_control(header, payload, Refuse)
    error = Refused(message.error, cause=message.cause, hint=message.hint)
    error.final = message.final
    return error


def _refusal(error: RhaError) -> Refuse:
    return Refuse(error=error.what, cause=error.cause, hint=error.hint, final=True)
