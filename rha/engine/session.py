"""One connection to the appliance: ships the ring in order, takes acknowledgements, says how the engine is.

One thread owns the TLS connection, for writing and reading: an OpenSSL connection is not safe for two.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import rha
from rha.capture.capture import Capture
from rha.capture.ring import NO_LIMIT, Region
from rha.engine.disks import Loss
from rha.engine.outbox import Bulk, Insert, Outbox
from rha.errors import NetworkError
from rha.scenario import Scenario, to_plain
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import PROTOCOL, Ack, DiskHello, Heartbeat, Hello, Refuse, Welcome
from rha.wire.messages import Gap as GapMessage
from rha.wire.stream import FrameReader

REGION_BYTES = 1 << 20
SILENCE_SECONDS = 60.0  # every heartbeat is acknowledged; the appliance may wait for its disk meanwhile
IDLE_POLL_SECONDS = 0.001


class Refused(NetworkError):
    """The appliance does not want this stream. `final`: not before a person acts."""

    final = False


@dataclass
class Progress:
    """What the session has achieved; read by the report from other threads."""

    connected_at: float = 0.0
    durable_lsn: int = 0
    applied_lsn: int = 0
    shipped_bytes: int = 0
    last_heard: float = field(default_factory=time.monotonic)


class Session:
    """Ships one scenario over one connected socket.

    `look()` lists the losses of order that stand; `on_loss(loss)` is called, from the session thread, when one is
    announced to the appliance, `on_differs(disk, offset, flags)` for each answer to HASHES, `on_tick()` about every
    100 ms.
    """

    def __init__(
        self,
        sock: ssl.SSLSocket,
        scenario: Scenario,
        capture: Capture,
        *,
        report: Callable[[], object],
        look: Callable[[], list[Loss]],
        on_loss: Callable[[Loss], None],
        on_differs: Callable[[int, int, bytes], None],
        on_tick: Callable[[], None],
    ) -> None:
        self._sock, self._scenario, self._capture = sock, scenario, capture
        self._report, self._look, self._on_loss = report, look, on_loss
        self._on_differs, self._on_tick = on_differs, on_tick
        self._reader = FrameReader(sock)
        self.outbox = Outbox()
        self.progress = Progress()
        self._seq = 0
        self._unacknowledged: deque[tuple[int, Bulk | Insert]] = deque()
        self._announced: set[int] = set()
        self._next_heartbeat = self._next_tick = 0.0
        self._stopped = False

    # Handshake ------------------------------------------------------------------------------------------------

    def greet(self) -> Welcome:
        """HELLO and its answer.

        Raises Refused, NetworkError or BadFrame.
        """
        capture = self._capture
        hello = Hello(
            protocol=PROTOCOL,
            version=rha.__version__,
            scenario=to_plain(self._scenario),
            host=socket.gethostname(),
            generation=capture.generation,
            first_lsn=capture.lsn_base + capture.ring.consumer if capture.lsn_base else 0,
            disks=[
                DiskHello(name=disk.name, bytes=device.bytes)
                for disk, device in zip(self._scenario.disk, capture.devices, strict=True)
            ],
        )
        self._send_control(FrameType.HELLO, hello)
        self._sock.settimeout(SILENCE_SECONDS)
        header, payload = self._reader.read()
        if header.type is FrameType.REFUSE:
            raise _refused(frames.decode_control(header, payload, Refuse))
        if header.type is not FrameType.WELCOME:
            raise NetworkError("the appliance answers out of turn", cause=f"{header.type.name} instead of WELCOME")
        return frames.decode_control(header, payload, Welcome)

    # The loop -------------------------------------------------------------------------------------------------

    def run(self, resume_lsn: int) -> None:
        """Ships from `resume_lsn` on until `stop` is called or the link fails.

        Raises NetworkError, Refused or BadFrame.
        """
        capture, ring = self._capture, self._capture.ring
        ring.release(resume_lsn - capture.lsn_base)
        ring.seek(resume_lsn - capture.lsn_base)
        self.progress = Progress(connected_at=time.time(), durable_lsn=resume_lsn, applied_lsn=resume_lsn)
        try:
            while not self._stopped:
                busy = self._ship_records()
                busy |= self._ship_insert()
                busy |= self._ship_bulk()
                self._read_answers()
                self._keep_time()
                if not busy:
                    ring.wait(IDLE_POLL_SECONDS, IDLE_POLL_SECONDS)
        except (OSError, ssl.SSLError) as error:
            raise NetworkError("the link to the appliance failed", cause=str(error), hint="rha status") from error
        finally:
            self.outbox.close()

    def stop(self) -> None:
        """Ends `run` soon; may be called from any thread."""
        self._stopped = True

    def drained(self) -> bool:
        """True when everything captured is acknowledged."""
        return self.progress.durable_lsn >= self._capture.lsn_base + self._capture.ring.producer

    def _ship_records(self) -> bool:
        region = self._next_region()
        if region.begin == region.end:
            return False
        # The frame's time is the last record's: every write submitted before it is in the stream up to here.
        submitted = time.time_ns() - time.monotonic_ns() + region.last_time_ns if region.last_time_ns else 0
        self._send(FrameType.RECORDS, region.data, lsn=self._capture.lsn_base + region.begin, time_ns=submitted)
        self.progress.shipped_bytes += region.end - region.begin
        return True

    def _next_region(self) -> Region:
        """Committed records up to the next frame that must stand between them.

        Losses are looked for after the end of the region is known: a record that was reserved after a lost write left
        the probe is then never shipped as ordered.
        """
        ring = self._capture.ring
        insert = self.outbox.next_insert()
        limit = insert.position if insert else NO_LIMIT
        region = ring.next(REGION_BYTES, limit)
        if region.begin == region.end:
            return region  # losses that nothing follows are announced with the next tick
        news = self._announce_losses(region.begin)
        if not news:
            return region
        ring.seek(region.begin)
        return ring.next(REGION_BYTES, min(limit, *(max(loss.position, region.begin) for loss in news)))

    def _announce_losses(self, shipped: int) -> list[Loss]:
        """Losses that this session has not announced; each gets its GAP, at ring position `shipped` or later."""
        news = [loss for loss in self._look() if loss.disk not in self._announced]
        for loss in news:
            self._announced.add(loss.disk)
            self._on_loss(loss)
            count = sum(self._capture.losses(loss.disk).values())
            message = GapMessage(disk=loss.disk, reason=loss.reason, count=count)
            self.outbox.insert(Insert(max(loss.position, shipped), FrameType.GAP, message, _nothing, _nothing))
        return news

    def forget_loss(self, disk: int) -> None:
        """The disk enters data mode again: its next loss is news."""
        self._announced.discard(disk)

    def _ship_insert(self) -> bool:
        insert = self.outbox.next_insert()
        ring = self._capture.ring
        if insert is None or ring.cursor < insert.position:
            return False
        self.outbox.pop_insert()
        seq = self._send_control(insert.type, insert.message, lsn=self._capture.lsn_base + ring.cursor)
        self._unacknowledged.append((seq, insert))
        insert.sent()
        return True

    def _ship_bulk(self) -> bool:
        bulk = self.outbox.pop_bulk()
        if bulk is None:
            return False
        seq = self._send(
            bulk.type,
            bulk.payload,
            lsn=self._capture.lsn_base + self._capture.ring.cursor,
            disk=bulk.disk,
            offset=bulk.offset,
            flags=bulk.flags,
            raw_length=bulk.raw_length,
        )
        self._unacknowledged.append((seq, bulk))
        return True

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + 0.1
            self._announce_losses(self._capture.ring.cursor)
            self._on_tick()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._scenario.link.heartbeat
            clock = time.time()  # before the position: what was captured until now is below it
            captured = self._capture.lsn_base + self._capture.ring.producer
            beat = Heartbeat(time=clock, captured_lsn=captured, report=self._report())  # type: ignore[arg-type]
            self._send_control(FrameType.HEARTBEAT, beat)
        if now - self.progress.last_heard > SILENCE_SECONDS:
            raise NetworkError("the appliance is silent", cause=f"nothing heard for {SILENCE_SECONDS:.0f} s")

    # Frames ---------------------------------------------------------------------------------------------------

    def _send(self, type: FrameType, payload: bytes | bytearray | memoryview, **fields: int) -> int:
        self._seq += 1
        head = frames.encode(type, payload, seq=self._seq, **fields)
        self._sock.sendall(head)
        self._sock.sendall(payload)
        return self._seq

    def _send_control(self, type: FrameType, message: object, **fields: int) -> int:
        self._seq += 1
        self._sock.sendall(frames.control(type, message, seq=self._seq, **fields))
        return self._seq

    def _read_answers(self) -> None:
        while self._sock.pending() or select.select([self._sock], [], [], 0)[0]:
            header, payload = self._reader.read()
            self.progress.last_heard = time.monotonic()
            if header.type is FrameType.ACK:
                self._take_ack(frames.decode_control(header, payload, Ack))
            elif header.type is FrameType.DIFFERS:
                self._on_differs(header.disk, header.offset, bytes(payload[: header.raw_length]))
            elif header.type is FrameType.REFUSE:
                raise _refused(frames.decode_control(header, payload, Refuse))
            else:
                raise NetworkError("the appliance answers out of turn", cause=f"an unexpected {header.type.name}")

    def _take_ack(self, ack: Ack) -> None:
        # Before the first record of a new generation the appliance still counts in the old one's LSNs.
        self.progress.durable_lsn = max(self.progress.durable_lsn, ack.durable_lsn)
        self.progress.applied_lsn = ack.applied_lsn
        self._capture.ring.release(self.progress.durable_lsn - self._capture.lsn_base)
        while self._unacknowledged and self._unacknowledged[0][0] <= ack.seq:
            _, item = self._unacknowledged.popleft()
            if isinstance(item, Bulk):
                self.outbox.acknowledged(item)
            else:
                item.acknowledged()


def _nothing() -> None:
    """An insert that nobody waits for."""


def _refused(message: Refuse) -> Refused:
    error = Refused(message.error, cause=message.cause, hint=message.hint)
    error.final = message.final
    return error
