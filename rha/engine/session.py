"""One connection to the appliance: ships the stream in order, takes acknowledgements, says how the engine is.

One thread owns the connection, for writing and reading. It never blocks in a write: while the line or the appliance
takes nothing, answers are read, heartbeats are queued and losses of order are noticed.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import rha
from rha.capture.capture import Capture
from rha.capture.ring import Region
from rha.engine.backlog import Backlog
from rha.engine.compression import Packer
from rha.engine.disks import Loss
from rha.engine.feed import Feed
from rha.engine.outbox import Bulk, Insert, Outbox
from rha.engine.pace import Gathering, Turns, idle_wait
from rha.engine.throttle import WAIT_SECONDS, Throttle
from rha.errors import NetworkError
from rha.hashing import Buffer
from rha.report import LinkReport
from rha.scenario import Scenario, to_plain
from rha.wire import frames
from rha.wire.codec import Packed
from rha.wire.credit import Allowance
from rha.wire.frames import HEADER_BYTES, FrameType, Header
from rha.wire.link import Link
from rha.wire.messages import PROTOCOL, Ack, Alone, DiskHello, Heartbeat, Hello, Order, Refuse, Welcome
from rha.wire.orders import Handler, Performer
from rha.wire.stream import FrameReader

SILENCE = 4  # times `link.lost_after`: every heartbeat is answered at once, however slow the appliance's disk is
GREETING_SECONDS = 60.0  # the appliance may have to catch up before it answers a new generation


class Refused(NetworkError):
    """The appliance does not want this stream. `final`: not before a person acts; `split`: as in rha.wire.messages."""

    final = False
    split = ""


@dataclass
class Progress:
    """What the session has achieved; read by the report from other threads."""

    connected_at: float = 0.0
    durable_lsn: int = 0
    applied_lsn: int = 0
    shipped_bytes: int = 0  # of records, before compression
    raw_bytes: int = 0  # of all payloads, before compression
    waits: str = ""


class Session:
    """Ships one scenario over one connected socket.

    `look()` lists the losses of order that stand; `on_loss(loss)` is called, from the session thread, when one is
    announced to the appliance, `on_differs(disk, offset, flags)` for each answer to HASHES, `on_tick()` about every
    100 ms. `orders`: what the appliance may have done here, by verb. `alone()`: what it never acknowledged.
    """

    def __init__(
        self,
        sock: ssl.SSLSocket,
        scenario: Scenario,
        capture: Capture,
        backlog: Backlog,
        *,
        report: Callable[[], object],
        look: Callable[[], list[Loss]],
        on_loss: Callable[[Loss], None],
        on_differs: Callable[[int, int, bytes], None],
        on_tick: Callable[[], None],
        orders: Mapping[str, Handler],
        alone: Callable[[], Alone],
    ) -> None:
        self._sock, self._scenario, self._capture = sock, scenario, capture
        self._report, self._on_differs, self._on_tick, self._alone = report, on_differs, on_tick, alone
        self._link: Link | None = None
        self._performer = Performer(orders)
        self.outbox = Outbox()
        self.progress = Progress()
        self._backlog = backlog
        self._feed = Feed(capture, backlog, self.outbox, look, on_loss)
        self._throttle = Throttle(scenario.link)
        self._packer = Packer(scenario.link.compression, [])
        self._turns, self._gathering = Turns(), Gathering()
        self._seq = 0
        self._unacknowledged: deque[tuple[int, Bulk | Insert]] = deque()
        self._next_heartbeat = self._next_tick = self._next_look = 0.0
        self._busy_at = 0.0  # monotonic: something was to be sent
        self._stopped = False
        self.forget_loss, self.are_gaps_known = self._feed.forget_loss, self._feed.are_gaps_known

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
            first_lsn=self._backlog.first_lsn,
            disks=[
                DiskHello(name=disk.name, bytes=device.bytes)
                for disk, device in zip(self._scenario.disk, capture.devices, strict=True)
            ],
            orders=self._performer.verbs,
            alone=self._alone(),
        )
        self._seq += 1
        self._sock.sendall(frames.control(FrameType.HELLO, hello, seq=self._seq))
        self._sock.settimeout(GREETING_SECONDS)
        header, payload = FrameReader(self._sock).read()
        if header.type is FrameType.REFUSE:
            raise _refused(frames.decode_control(header, payload, Refuse))
        if header.type is not FrameType.WELCOME:
            raise NetworkError("the appliance answers out of turn", cause=f"{header.type.name} instead of WELCOME")
        welcome = frames.decode_control(header, payload, Welcome)
        self._throttle.credit = Allowance(welcome.credit)
        self._packer = Packer(self._scenario.link.compression, welcome.codecs)
        return welcome

    # The loop -------------------------------------------------------------------------------------------------

    def run(self, resume_lsn: int) -> None:
        """Ships from `resume_lsn` on until `stop` is called or the link fails.

        Raises NetworkError, Refused or BadFrame.
        """
        self._feed.begin(resume_lsn)
        self.progress = Progress(connected_at=time.time(), durable_lsn=resume_lsn, applied_lsn=resume_lsn)
        try:
            self._link = link = Link(self._sock)
            while not self._stopped:
                wait = WAIT_SECONDS if link.out_bytes else self._send_next()
                for header, payload in link.step(wait):
                    self._take_answer(header, payload)
                for answer in self._performer.due():
                    self._send_control(FrameType.ANSWER, answer)
                self._keep_time(link)
        except (OSError, ssl.SSLError) as error:
            for header, payload in self._link.last_words() if self._link else ():
                if header.type is FrameType.REFUSE:
                    raise _refused(frames.decode_control(header, payload, Refuse)) from error
            raise NetworkError("the link to the appliance failed", cause=str(error), hint="rha status") from error
        finally:
            self.outbox.close()

    def stop(self) -> None:
        """Ends `run` soon; may be called from any thread."""
        self._stopped = True

    def drained(self) -> bool:
        """True when everything captured is acknowledged."""
        return self.progress.durable_lsn >= self._feed.captured_lsn

    def _send_next(self) -> float:
        """Sends the frame whose turn it is. Returns for how long to wait for answers before the next one."""
        while insert := self._feed.due_insert():
            self._send_insert(insert)
        region = self._feed.next_region()  # also while sending must wait: a loss of order is noticed here
        bulk = self.outbox.next_bulk()
        if region.begin == region.end and bulk is None:
            self.progress.waits = ""
            return idle_wait(time.monotonic() - self._busy_at, self._capture.ring.bytes)
        self._busy_at = time.monotonic()
        gather = self._gather_seconds(region)
        waits = region.begin < region.end and not gather
        if bulk and not self._turns.is_bulk_next(records_wait=waits, bulk_waits=True, ring_used=self._feed.used):
            bulk = None
        size = HEADER_BYTES + (len(bulk.payload) if bulk else len(region.data))
        wait, self.progress.waits = self._throttle.why_wait(size)
        if not bulk:
            wait = max(wait, gather)
        if bulk or wait:
            self._feed.put_back(region)
        if wait:
            return wait
        if bulk:
            self._send_bulk(self.outbox.pop_bulk() or bulk)
        else:
            self._send_records(region)
        return 0.0

    def _gather_seconds(self, region: Region) -> float:
        """How long the records at hand should wait for more of them."""
        under_way = self.progress.durable_lsn < self._capture.lsn_base + region.begin
        return self._gathering.wait_seconds(region.end - region.begin, under_way=under_way, now=time.monotonic())

    def _send_records(self, region: Region) -> None:
        # The frame's time is the last record's: every write submitted before it is in the stream up to here.
        submitted = time.time_ns() - time.monotonic_ns() + region.last_time_ns if region.last_time_ns else 0
        lsn = self._capture.lsn_base + region.begin
        size = self._send_data(FrameType.RECORDS, region.data, None, lsn=lsn, time_ns=submitted)
        self._turns.sent_records(size)
        self._gathering.sent(time.monotonic())
        self.progress.shipped_bytes += region.end - region.begin

    def _send_bulk(self, bulk: Bulk) -> None:
        size = self._send_data(
            bulk.type,
            bulk.payload,
            bulk.raw_length,
            lsn=self._feed.cursor_lsn,
            disk=bulk.disk,
            offset=bulk.offset,
            flags=bulk.flags,
        )
        self._turns.sent_bulk(size)
        self._unacknowledged.append((self._seq, bulk))

    def _send_insert(self, insert: Insert) -> None:
        self._send_control(insert.type, insert.message, lsn=self._feed.cursor_lsn)
        self._unacknowledged.append((self._seq, insert))
        insert.sent()

    def announce_losses(self) -> None:
        """Every loss of order that stands gets its GAP. In the session's thread."""
        self._feed.announce_losses()

    # Time -----------------------------------------------------------------------------------------------------

    def _keep_time(self, link: Link) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + 0.1
            self._on_tick()
        if now >= self._next_look:
            self._next_look = now + 1.0
            self._throttle.look(link, now)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._scenario.link.heartbeat
            clock = time.time()  # before the position: what was captured until now is below it
            captured = self._feed.captured_lsn
            self.announce_losses()  # what was lost before `clock`: its GAP goes first where nothing else is to be sent
            while insert := self._feed.due_insert():
                self._send_insert(insert)
            beat = Heartbeat(time=clock, captured_lsn=captured, report=self._report())  # type: ignore[arg-type]
            self._send_control(FrameType.HEARTBEAT, beat)
        silence = SILENCE * self._scenario.link.lost_after
        if now - link.last_heard > silence:
            raise NetworkError("the appliance is silent", cause=f"nothing heard for {silence:.0f} s")

    def link_report(self) -> LinkReport:
        """How the link is; from any thread."""
        progress, link = self.progress, self._link
        return LinkReport(
            limit_bytes=self._throttle.limit.rate,
            limit=self._throttle.limit.why,
            compression=self._packer.choice.why,
            sent_bytes=link.sent_bytes if link else 0,
            raw_bytes=progress.raw_bytes,
            waits=progress.waits,
        )

    # Frames ---------------------------------------------------------------------------------------------------

    def _send_data(self, type: FrameType, data: Buffer, raw_length: int | None, **fields: int) -> int:
        """Posts a data frame; returns its size."""
        self._seq += 1
        packed = Packed(data, len(data))
        if type in frames.COMPRESSIBLE:
            packed = self._packer.pack(data, self._throttle.line_rate)
        head = frames.encode(
            type,
            packed.payload,
            seq=self._seq,
            raw_length=packed.raw_length if raw_length is None else raw_length,
            codec=packed.codec,
            pad=packed.pad,
            raw_sum=packed.raw_sum,
            **fields,
        )
        self.progress.raw_bytes += HEADER_BYTES + len(data)
        return self._post(head, packed.payload, credited=True)

    def _send_control(self, type: FrameType, message: object, **fields: int) -> None:
        self._seq += 1
        frame = frames.control(type, message, seq=self._seq, **fields)
        self.progress.raw_bytes += len(frame)
        self._post(frame)

    def _post(self, *parts: Buffer, credited: bool = False) -> int:
        assert self._link is not None
        self._link.post(*parts)
        size = sum(map(len, parts))
        self._throttle.sent(size, credited=credited)
        return size

    def _take_answer(self, header: Header, payload: memoryview) -> None:
        if header.type is FrameType.ACK:
            self._take_ack(frames.decode_control(header, payload, Ack))
        elif header.type is FrameType.DIFFERS:
            self._on_differs(header.disk, header.offset, bytes(payload[: header.raw_length]))
        elif header.type is FrameType.ORDER:
            self._performer.take(frames.decode_control(header, payload, Order))
        elif header.type is FrameType.REFUSE:
            raise _refused(frames.decode_control(header, payload, Refuse))
        else:
            raise NetworkError("the appliance answers out of turn", cause=f"an unexpected {header.type.name}")

    def _take_ack(self, ack: Ack) -> None:
        # Before the first record of a new generation the appliance still counts in the old one's LSNs.
        self.progress.durable_lsn = max(self.progress.durable_lsn, ack.durable_lsn)
        self.progress.applied_lsn = ack.applied_lsn
        self._throttle.credit.grant(ack.credit)
        self._feed.acknowledged(self.progress.durable_lsn)
        while self._unacknowledged and self._unacknowledged[0][0] <= ack.seq:
            _, item = self._unacknowledged.popleft()
            if isinstance(item, Bulk):
                self.outbox.acknowledged(item)
            else:
                item.acknowledged()


def _refused(message: Refuse) -> Refused:
    error = Refused(message.error, cause=message.cause, hint=message.hint)
    error.final, error.split = message.final, message.split
    return error
