"""One master's connection: frames in, durable, acknowledged; digests compared.

One thread owns the TLS connection, for reading and writing, and never waits for a disk: heartbeats are answered while a
sync of the journal takes its time. Another takes what was read into the journal: everything that is there, up to a
group's size, then one fsync: the more is under way, the fewer the fsyncs. What lies between the two is bounded by the
credit that the engine was granted; an engine that sends more all the same is not read any further.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from rha.appliance.before import Before
from rha.appliance.comparing import Comparer, asked_bytes
from rha.appliance.parted import Replaced
from rha.appliance.replica import Replica
from rha.appliance.sharing import RECEIVING
from rha.errors import NetworkError, RhaError, StateError
from rha.wire import codec, frames, tls
from rha.wire.credit import LEAST_WINDOW_BYTES, MOST_FRAME_BYTES, WINDOW_BYTES, Grant
from rha.wire.frames import HEADER_BYTES, BadFrame, FrameType, Header
from rha.wire.link import Frame, Link
from rha.wire.messages import Ack, Answer, Hello, Refuse, Welcome
from rha.wire.orders import Asker
from rha.wire.stream import FrameReader
from rha.wire.wake import Wake

GROUP_BYTES = 16 << 20
SILENCE_SECONDS = 30.0  # the engine sends a heartbeat every second or so
CONTROL_BYTES = 1 << 20  # of frames without credit that may wait for the journal
UNREAD_BYTES = 1 << 20  # of answers that the engine has not taken: then it is not listened to either
_TICK_SECONDS = 0.5
_FAREWELL_SECONDS = 2.0


class Connection:
    """Serves one accepted and authenticated connection until it ends. `stop` may be called from any thread."""

    def __init__(self, sock: ssl.SSLSocket, peer: str) -> None:
        self._sock, self._peer = sock, peer
        self._first: Frame | None = None  # read, and not yet taken
        self._reader = FrameReader(sock)
        self._link: Link | None = None
        self._grant = Grant(LEAST_WINDOW_BYTES)
        self._uncredited = 0  # bytes of control frames that wait for the journal
        self._stopped = False
        self._welcomed_lsn = 0
        self.replica: Replica | None = None  # as soon as it is this connection's
        self._verbs: list[str] = []
        self._asker: Asker | None = None

    def read_first(self) -> Frame:
        """What the other end begins with; `greet` takes it. Raises RhaError, BadFrame after the other end was told."""
        try:
            self._first = self._reader.read()
        except BadFrame as error:
            self.refuse(error)
            raise
        return self._first

    def greet(self, replica_for: Callable[[Hello], Replica]) -> Replica:
        """HELLO and WELCOME. `replica_for(hello)` gives the scenario's replica, with this connection as its only one.
        An engine whose LSNs lie below what the appliance has seen begins a new generation and greets once more.

        Raises RhaError, after the engine was told why.
        """
        try:
            hello = self._read_hello()
        except BadFrame as error:
            self.refuse(error)
            raise
        try:
            replica = self.replica = replica_for(hello)
            replica.expect(somebody=not self._stopped)
            welcome = self._welcome(replica, hello)
            if not welcome.generation_known and hello.first_lsn <= welcome.lsn_floor:
                welcome = self._welcome(replica, self._read_hello())
        except RhaError as error:
            self.refuse(error)
            raise
        self._welcomed_lsn = welcome.durable_lsn
        return replica

    def _read_hello(self) -> Hello:
        header, payload = self._first or self._reader.read()
        self._first = None
        if header.type is not FrameType.HELLO:
            raise BadFrame("the engine does not greet", cause=f"{header.type.name} instead of HELLO")
        return frames.decode_control(header, payload, Hello)

    def _welcome(self, replica: Replica, hello: Hello) -> Welcome:
        raw = frames.control(FrameType.HELLO, hello, lsn=hello.first_lsn)
        self._verbs = hello.orders
        welcome = replica.welcome(hello, raw, socket.gethostname())
        welcome.credit, welcome.codecs = self._grant.limit, list(codec.NAMES)
        self._send(FrameType.WELCOME, welcome)
        return welcome

    def refuse(self, error: RhaError, *, final: bool = False) -> None:
        """Tells the engine why the connection ends."""
        split = error.split if isinstance(error, Replaced) else ""
        refusal = Refuse(error=error.what, cause=error.cause, hint=error.hint, final=final, split=split)
        self._send(FrameType.REFUSE, refusal)
        if self._link:
            with tls.explain(f"answering {self._peer} failed"):
                self._link.flush(_FAREWELL_SECONDS)

    def stop(self) -> None:
        """Ends `greet` or `serve` soon."""
        self._stopped = True
        if self.replica:
            self.replica.expect(somebody=False)

    def ask(self, verb: str, limit: float | None, **arguments: Any) -> Any:
        """Orders something of the engine (rha.wire.orders.Asker.ask); from any thread, while `serve` runs."""
        if self._asker is None:
            raise StateError("the master is only greeting yet", hint="try again")
        return self._asker.ask(verb, limit, **arguments)

    def serve(self, replica: Replica) -> None:
        """Takes the stream until the connection ends or `stop` is called.

        Raises NetworkError when the link fails, BadFrame or StorageError after telling the engine.
        """
        with Wake() as wake:
            comparer = Comparer(replica, wake)
            taker = _Taker(replica, comparer, wake, self._welcomed_lsn)
            self._asker = asker = Asker(self._verbs, wake.set)
            comparer.start()
            taker.start()
            try:
                self._link = Link(self._sock, wake.fd)
                while not self._stopped:
                    self._step(self._link, replica, taker, comparer, wake)
                    for order in asker.due():
                        self._send(FrameType.ORDER, order)
            except NetworkError:
                raise
            except RhaError as error:
                self.refuse(error)
                raise
            finally:
                asker.close(f"the link to {self._peer} ended")
                RECEIVING.leave(self)
                replica.expect(somebody=False)
                taker.stop()
                comparer.stop()

    def _step(self, link: Link, replica: Replica, taker: _Taker, comparer: Comparer, wake: Wake) -> None:
        hold = self._grant.held > WINDOW_BYTES or self._uncredited > CONTROL_BYTES
        hold = hold or link.out_bytes > UNREAD_BYTES
        heard, received = link.last_heard, self._grant.received
        found = link.step(_TICK_SECONDS, read=not hold)
        wake.clear()
        answer = False
        if link.last_heard != heard:
            replica.heard()
        for header, payload in found:
            if header.type is FrameType.HEARTBEAT:
                replica.take(header, payload)
                answer = True
            elif header.type is FrameType.ANSWER and self._asker:
                self._asker.take(frames.decode_control(header, payload, Answer))
            else:
                self._count(header)
                taker.put((header, payload))
        self._grant.window = RECEIVING.window(self, self._grant.received > received, time.monotonic())
        settled, uncredited = taker.settled()
        self._grant.settle(settled)
        self._uncredited -= uncredited
        if answer or settled or uncredited:
            self._acknowledge(replica, taker)
        for header, flags in comparer.answers():
            payload = memoryview(frames.pad(flags))
            fields = {"disk": header.disk, "offset": header.offset, "flags": header.flags, "raw_length": len(flags)}
            link.post(frames.encode(FrameType.DIFFERS, payload, **fields), payload)
        if not hold and time.monotonic() - link.last_heard > SILENCE_SECONDS:
            raise NetworkError(f"{self._peer} is silent", cause=f"nothing for {SILENCE_SECONDS:.0f} s")
        if link.out_bytes and time.monotonic() - link.last_taken > SILENCE_SECONDS:
            cause = f"{link.out_bytes} bytes of answers, none taken for {SILENCE_SECONDS:.0f} s"
            raise NetworkError(f"{self._peer} does not read", cause=cause)

    def _count(self, header: Header) -> None:
        if header.type in frames.CREDITED:
            if header.length > MOST_FRAME_BYTES:
                raise BadFrame("a frame too large to be held", cause=f"{header.type.name} of {header.length} bytes")
            self._grant.receive(HEADER_BYTES + header.length)
        else:
            self._uncredited += HEADER_BYTES + header.length

    def _acknowledge(self, replica: Replica, taker: _Taker) -> None:
        durable, seq = taker.durable
        ack = Ack(durable_lsn=durable, seq=seq, applied_lsn=replica.applied_lsn, credit=self._grant.limit)
        self._send(FrameType.ACK, ack)

    def _send(self, type: FrameType, message: object) -> None:
        frame = frames.control(type, message)
        if self._link:
            self._link.post(frame)
            return
        with tls.explain(f"answering {self._peer} failed"):
            self._sock.sendall(frame)


class _Taker(threading.Thread):
    """Takes frames into the journal, in groups. `durable`: LSN and frame number up to which all is on stable
    storage."""

    def __init__(self, replica: Replica, comparer: Comparer, wake: Wake, durable_lsn: int) -> None:
        super().__init__(name=f"take-{replica.name}", daemon=True)
        self._replica, self._comparer, self._wake = replica, comparer, wake
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._settled = (0, 0)
        self._failure: BaseException | None = None
        self._stopping = False
        self._committed = replica.journal_end
        self._before = Before(self._committed)
        self.durable = (durable_lsn, 0)

    def put(self, frame: Frame) -> None:
        self._frames.put(frame)

    def settled(self) -> tuple[int, int]:
        """Bytes of frames, with and without credit, that were settled since the last call. Raises what the taking died
        of."""
        with self._lock:
            if self._failure:
                raise self._failure
            settled, self._settled = self._settled, (0, 0)
            return settled

    def stop(self) -> None:
        """Ends it behind the group at hand; what waits is dropped: it was never acknowledged."""
        self._stopping = True
        self._frames.put(None)
        self.join()

    def run(self) -> None:
        try:
            while not self._stopping:
                self._take_group()
                self._replica.tend()
        except BaseException as error:  # noqa: BLE001 - raised again in the connection's thread
            with self._lock:
                self._failure = error
            self._wake.set()

    def _take_group(self) -> None:
        if self._replica.spool_full():
            time.sleep(_TICK_SECONDS)
            return
        credited, others, last = 0, 0, 0
        frame = self._next(_TICK_SECONDS)
        while frame and not self._stopping:
            header, payload = frame
            self._take(header, payload)
            last, size = header.seq, HEADER_BYTES + header.length
            if header.type in frames.CREDITED:
                credited += size
            else:
                others += size
            frame = self._next(None) if credited + others < GROUP_BYTES else None
        if credited or others:
            self.durable = (self._commit(), last)
            with self._lock:
                self._settled = (self._settled[0] + credited, self._settled[1] + others)
            self._wake.set()

    def _next(self, timeout: float | None) -> Frame | None:
        try:
            return self._frames.get(timeout=timeout) if timeout else self._frames.get_nowait()
        except queue.Empty:
            return None

    def _take(self, header: Header, payload: memoryview) -> None:
        if header.type is FrameType.HASHES:
            theirs = bytes(payload[: header.raw_length])
            position = self._before.position_for(header.disk, header.offset, asked_bytes(header, theirs))
            if position > self._committed:
                self._commit()
            self._comparer.ask(header, theirs, position)
        else:
            self._replica.take(header, payload)
            self._before.taken(header, payload, self._replica.journal_end)

    def _commit(self) -> int:
        end = self._replica.journal_end
        lsn = self._replica.commit()
        self._committed = end
        return lsn
