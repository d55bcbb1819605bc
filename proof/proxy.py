"""A line between engine and appliance that can be made bad, as netem does for packets. Here it is a stream: what TCP
hides of loss are stalls, of reordering nothing, so the faults are delay, stalls, throughput, silence in one direction,
cuts, resets and damaged bytes."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]  # to the appliance, to the engine
CHUNK_BYTES = 16 << 10
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST


@dataclass
class Weather:
    """How the line is now; may be changed at any time. Seconds, bytes per second."""

    latency: float = 0.0
    jitter: float = 0.0
    stall_chance: float = 0.0  # per chunk: a packet and its retransmissions were lost
    stall_seconds: float = 0.2
    rate: float = 0.0  # 0: as fast as it goes
    held: set[Direction] = field(default_factory=set)  # nothing passes, and nobody is told


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target` while its block runs. `cuts`: ends of connections that were
    cut."""

    def __init__(self, target: int, *, seed: int = 1) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.weather = Weather()
        self.refuses = False  # new connections end at once
        self.cuts = 0
        self.damaged = 0
        self.connections = 0
        self._to_damage: set[Direction] = set()
        self._draw = random.Random(seed)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the end
            while True:
                near, _ = self._listener.accept()
                if self.refuses:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    self._pairs.append((near, far))
                    self.connections += 1
                _Lane(self, "up", near, far).start()
                _Lane(self, "down", far, near).start()

    def cut(self, *, reset: bool = False) -> None:
        """Cuts every connection that stands now; with `reset` as a router does that has forgotten them."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                with contextlib.suppress(OSError):  # cut already by its peer
                    if reset:
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    side.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
                    self.cuts += 1

    def damage(self, direction: Direction) -> None:
        """Flips one bit of the next bytes in this direction."""
        self._to_damage.add(direction)

    def spoil(self, direction: Direction, data: bytes) -> bytes:
        """The bytes as they arrive."""
        if direction not in self._to_damage:
            return data
        self._to_damage.discard(direction)
        self.damaged += 1
        spoilt = bytearray(data)
        spoilt[self._draw.randrange(len(spoilt))] ^= 1 << self._draw.randrange(8)
        return bytes(spoilt)

    def delay(self) -> float:
        """How long the next bytes are under way."""
        weather = self.weather
        stall = weather.stall_seconds if self._draw.random() < weather.stall_chance else 0.0
        return weather.latency + self._draw.random() * weather.jitter + stall


class _Lane:
    """One direction of one connection: one thread takes bytes and says when they are due, another delivers them."""

    def __init__(self, proxy: Proxy, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        self._proxy, self._direction, self._source, self._target = proxy, direction, source, target
        self._under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(64)
        self._over = threading.Event()

    def start(self) -> None:
        for work in (self._take, self._deliver):
            threading.Thread(target=self._until_over, args=(work,), daemon=True).start()

    def _until_over(self, work: object) -> None:
        with contextlib.suppress(OSError):  # one side is gone: the pair ends
            work()  # type: ignore[operator]
        self._over.set()
        for side in (self._source, self._target):
            with contextlib.suppress(OSError):  # closed already: the other lane was first
                side.shutdown(socket.SHUT_RDWR)  # a close alone does not reach a thread that waits in recv
            side.close()

    def _take(self) -> None:
        due = 0.0
        while data := self._source.recv(CHUNK_BYTES):
            # Never before what was sent earlier: TCP keeps the order.
            due = max(due, time.monotonic() + self._proxy.delay())
            rate = self._proxy.weather.rate
            due += len(data) / rate if rate else 0.0
            while not self._over.is_set():
                with contextlib.suppress(queue.Full):
                    self._under_way.put((due, data), timeout=0.1)
                    break

    def _deliver(self) -> None:
        while not self._over.is_set():
            try:
                due, data = self._under_way.get(timeout=0.05)
            except queue.Empty:
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            while self._direction in self._proxy.weather.held:
                if self._over.wait(0.02):
                    return
            self._target.sendall(self._proxy.spoil(self._direction, data))
