"""A replica in this process, and a master that says to it what a test wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.appliance.config import Config
from rha.appliance.replica import Replica
from rha.scenario import Appliance, Disk, Scenario, to_plain
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import PROTOCOL, DiskHello, End, Hello, Mark, Welcome

DISK_BYTES = 8 << 20
NAME = "web1"


def opened(folder: Path, *, retired: bool = False, **config_words: Any) -> Replica:
    config = Config(store=str(folder), ca="/x", certificate="/x", key="/x", **config_words)
    return Replica(folder / NAME, config, retired=retired)


def hello(generation: str, first_lsn: int = 0, sizes: tuple[int, ...] = (DISK_BYTES,)) -> Hello:
    names = [f"d{i}" for i in range(len(sizes))]
    scenario = Scenario(
        name=NAME,
        disk=[Disk(name=name, device=f"/dev/{name}") for name in names],
        appliance=Appliance(address="127.0.0.1:1", ca="/x", certificate="/x", key="/x"),
    )
    return Hello(
        protocol=PROTOCOL,
        version="test",
        scenario=to_plain(scenario),
        host="master",
        generation=generation,
        first_lsn=first_lsn,
        disks=[DiskHello(name=name, bytes=size) for name, size in zip(names, sizes, strict=True)],
    )


def wait_for(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until it is so. Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


class Master:
    """Greets and sends frames with LSNs of its own count."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.lsn = replica, 0

    def greet(self, generation: str, first_lsn: int) -> Welcome:
        message = hello(generation, first_lsn)
        self.lsn = first_lsn
        return self.replica.welcome(message, frames.control(FrameType.HELLO, message, lsn=first_lsn), "appliance")

    def control(self, kind: FrameType, message: object) -> None:
        raw = frames.control(kind, message, lsn=self.lsn)
        self._take(raw)

    def data(self, kind: FrameType, payload: bytes, **fields: Any) -> None:
        self._take(frames.encode(kind, payload, lsn=self.lsn, time_ns=time.time_ns(), **fields) + payload)
        if kind is FrameType.RECORDS:
            self.lsn += len(payload)

    def _take(self, raw: bytes) -> None:
        self.replica.take(frames.decode_header(raw[: frames.HEADER_BYTES]), memoryview(raw)[frames.HEADER_BYTES :])

    def sync(self, content: bytes) -> None:
        """A first sync of one piece at the disk's beginning, durable and applied."""
        self.control(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"))
        self.data(FrameType.RESYNC, content)
        self.control(FrameType.END, End(epoch=1, disks=[0], lsn=self.lsn))
        self.settle()

    def settle(self) -> None:
        self.replica.commit()
        assert self.replica.wait_applied(timeout=30)
