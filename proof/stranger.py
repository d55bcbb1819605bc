"""Masters made by hand: they speak the wire, with a certificate of their own, and have neither probe nor disk."""

from __future__ import annotations

import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

from proof.lab import MIB, Lab
from rha import scenario_check
from rha.errors import NetworkError
from rha.hashing import xxh3
from rha.scenario import to_plain
from rha.wire import frames, tls
from rha.wire.credit import Allowance
from rha.wire.frames import HEADER_BYTES, FrameType, Header
from rha.wire.link import Link
from rha.wire.messages import PROTOCOL, Ack, DiskHello, End, Heartbeat, Hello, Mark, Refuse, Welcome
from rha.wire.stream import FrameReader

FIRST_LSN, DISK_BYTES = 4096, 16 * MIB
CONNECT_SECONDS = 60.0
_BEAT_SECONDS, _TICK_SECONDS = 1.0, 0.2
_RECORD = struct.Struct("<IIQIHBBQ")  # ring header and struct rha_record


class Stranger:
    """An authenticated master whose frames are made by hand."""

    def __init__(self, sock: ssl.SSLSocket, hello: Hello) -> None:
        self.sock, self.reader = sock, FrameReader(sock)
        self.send(FrameType.HELLO, hello, lsn=hello.first_lsn)

    def send(self, kind: FrameType, message: object, **fields: int) -> None:
        self.raw(frames.control(kind, message, **fields))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def data(self, kind: FrameType, payload: bytes, **fields: int) -> None:
        self.raw(frames.encode(kind, payload, **fields) + payload)

    def answer(self, wanted: FrameType) -> tuple[Header, bytes]:
        """The next frame of that type; acknowledgements on the way are passed over."""
        while True:
            header, payload = self.reader.read()
            if header.type is wanted:
                return header, bytes(payload)
            assert header.type is FrameType.ACK, header

    def refusal(self) -> Refuse:
        header, payload = self.answer(FrameType.REFUSE)
        return frames.decode_control(header, payload, Refuse)

    def welcome(self) -> Welcome:
        header, payload = self.answer(FrameType.WELCOME)
        return frames.decode_control(header, payload, Welcome)

    def first_sync(self) -> None:
        """Says that a disk of zeros is synced; returns when that is durable."""
        self.send(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"), lsn=FIRST_LSN, seq=1)
        self.send(FrameType.END, End(epoch=1, disks=[0], lsn=FIRST_LSN), lsn=FIRST_LSN, seq=2)
        while frames.decode_control(*self.answer(FrameType.ACK), Ack).seq < 2:
            pass


def hello_of(lab: Lab, name: str, size: int = DISK_BYTES) -> Hello:
    """The greeting of a scenario with one disk, d0."""
    file = lab.folder / f"{name}.toml"
    if not file.exists():
        lab.scenario_file(["/dev/null"], name)
    return Hello(
        protocol=PROTOCOL,
        version="test",
        scenario=to_plain(scenario_check.load(file)),
        host="stranger",
        generation="5" * 32,
        first_lsn=FIRST_LSN,
        disks=[DiskHello(name="d0", bytes=size)],
    )


@contextmanager
def stranger(lab: Lab, name: str, hello: Hello | None = None) -> Iterator[Stranger]:
    """Connected with the certificate of scenario `name`."""
    with connected(lab, name) as sock:
        yield Stranger(sock, hello or hello_of(lab, name))


def connected(lab: Lab, name: str) -> ssl.SSLSocket:
    pair = lab.certificate(name)
    context = tls.client_context(lab.pki / "ca.pem", pair.certificate, pair.key)
    return tls.connect(f"127.0.0.1:{lab.port}", context, CONNECT_SECONDS)


def records(count: int, length: int, disk_bytes: int, seed: int) -> bytes:
    """A run of writes of `length` bytes each, spread over a disk."""
    places, found = disk_bytes // length, bytearray()
    for number in range(count):
        sector = (seed * 7919 + number * 104729) % places * length // 512
        found += _RECORD.pack(24 + length, 0, sector, length, 0, 1, 0, 1 + number)
        found += (number * 31 + seed & 0xFF).to_bytes(1, "little") * length
    return bytes(found)


class Feeder(threading.Thread):
    """A master that sends writes of its own, in frames of `count` times `length` bytes, as fast as it is let, or `rate`
    bytes a second. `acknowledged`, `applied`: bytes of stream that the appliance has on stable storage, in its image;
    `delays`: seconds from the sending of each frame to its acknowledgement."""

    def __init__(
        self, lab: Lab, name: str, *, count: int = 16, length: int = 64 << 10, rate: float = 0, size: int = 64 * MIB
    ) -> None:
        super().__init__(name=f"feed-{name}", daemon=True)
        self.scenario = name
        self._hello, self._rate = hello_of(lab, name, size), rate
        first = crc32(name.encode()) % 251  # what one sends no other does
        self._runs = [records(count, length, size, first + number) for number in range(4)]
        self._sums = [xxh3(run) for run in self._runs]
        self._lab = lab
        self._sock: ssl.SSLSocket
        self.acknowledged = self.applied = 0
        self.delays: list[float] = []
        self._waiting: deque[tuple[int, float]] = deque()  # end of a frame, when it was sent
        self._allowance = Allowance()
        self._seq, self._lsn, self._stopping = 2, FIRST_LSN, threading.Event()
        self.failure: BaseException | None = None
        self.link: Link | None = None

    def greet(self) -> None:
        """Connects and gets into write order."""
        self._sock = connected(self._lab, self.scenario)
        one = Stranger(self._sock, self._hello)
        self._allowance.grant(one.welcome().credit)
        one.first_sync()

    def stop(self) -> None:
        """Ends it. Raises what it died of."""
        self._stopping.set()
        if self.ident is not None:
            self.join()
        if hasattr(self, "_sock"):
            self._sock.close()
        if self.failure:
            raise self.failure

    def run(self) -> None:
        try:
            self.link = link = Link(self._sock)
            begun = beat = time.monotonic()
            while not self._stopping.is_set():
                now = time.monotonic()
                if now >= beat:
                    beat = now + _BEAT_SECONDS
                    link.post(frames.control(FrameType.HEARTBEAT, Heartbeat(time=time.time(), captured_lsn=self._lsn)))
                while link.out_bytes < MIB and self._may_send(now - begun):
                    self._send(link, now)
                for header, payload in link.step(_TICK_SECONDS if not self._rate else 0.01):
                    self._take(header, payload)
        except BaseException as error:  # noqa: BLE001 - raised again in `stop`
            self.failure = error

    def _may_send(self, seconds: float) -> bool:
        size = HEADER_BYTES + len(self._runs[0])
        return self._allowance.fits(size) and not (self._rate and self._lsn - FIRST_LSN + size > self._rate * seconds)

    def _send(self, link: Link, now: float) -> None:
        which = self._seq % len(self._runs)
        run, total = self._runs[which], self._sums[which]
        self._seq += 1
        head = frames.encode(
            FrameType.RECORDS, run, lsn=self._lsn, seq=self._seq, time_ns=time.time_ns(), payload_sum=total
        )
        link.post(head, run)
        self._allowance.spend(len(head) + len(run))
        self._lsn += len(run)
        self._waiting.append((self._lsn, now))

    def _take(self, header: Header, payload: memoryview) -> None:
        if header.type is FrameType.REFUSE:
            refusal = frames.decode_control(header, payload, Refuse)
            raise NetworkError(refusal.error, cause=refusal.cause)
        if header.type is not FrameType.ACK:
            return
        ack = frames.decode_control(header, payload, Ack)
        self._allowance.grant(ack.credit)
        self.acknowledged, self.applied = ack.durable_lsn - FIRST_LSN, ack.applied_lsn - FIRST_LSN
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= ack.durable_lsn:
            self.delays.append(now - self._waiting.popleft()[1])
