"""A replica in this process, and what a master would send it."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path
from typing import Any

from rha.appliance.config import Config
from rha.appliance.replica import Replica
from rha.scenario import Appliance, Disk, Scenario, to_plain
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import PROTOCOL, DiskHello, End, Hello, Mark

PIECE = 1 << 20
SIZE = 4096


class Feed:
    """Gives a replica its frames."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.lsn = replica, 8

    def say(self, kind: FrameType, message: object) -> None:
        self._take(frames.control(kind, message, lsn=self.lsn))

    def data(self, kind: FrameType, payload: bytes, **fields: int) -> None:
        self._take(frames.encode(kind, payload, lsn=self.lsn, time_ns=time.time_ns(), **fields) + payload)
        self.lsn += len(payload) if kind is FrameType.RECORDS else 0

    def _take(self, raw: bytes) -> None:
        self.replica.take(frames.decode_header(raw[: frames.HEADER_BYTES]), memoryview(raw)[frames.HEADER_BYTES :])

    def settle(self) -> None:
        self.replica.commit()
        self.replica.wait_applied()

    def sync(self, megabytes: int) -> None:
        """Fills the disk."""
        self.say(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"))
        for number in range(megabytes):
            self.data(FrameType.RESYNC, os.urandom(PIECE), offset=number * PIECE)
            if number % 64 == 0:
                self.replica.commit()
        self.say(FrameType.END, End(epoch=1, disks=[0], lsn=self.lsn))
        self.settle()

    def churn(self, megabytes: int, disk_bytes: int, size: int = SIZE) -> list[int]:
        """Random writes; returns where: the offsets of all places, ascending."""
        touched = set()
        payload = os.urandom(size)
        for number in range(megabytes):
            run = []
            for _ in range(PIECE // size):
                place = random.randrange(disk_bytes // size)
                touched.add(place)
                run.append(struct.pack("<IIQIHBBQ", 24 + size, 0, place * size // 512, size, 0, 1, 0, 1) + payload)
            self.data(FrameType.RECORDS, b"".join(run))
            if number % 16 == 0:
                self.replica.commit()
        self.settle()
        return [place * size for place in sorted(touched)]


def opened(folder: Path, disk_bytes: int, **limits: Any) -> Feed:
    config = Config(store=str(folder), ca="/x", certificate="/x", key="/x", **limits)
    feed = Feed(Replica(folder / "bench", config))
    appliance = Appliance(address="127.0.0.1:1", ca="/x", certificate="/x", key="/x")
    scenario = Scenario(name="bench", disk=[Disk(name="d0", device="/dev/d0")], appliance=appliance)
    hello = Hello(
        protocol=PROTOCOL,
        version="bench",
        scenario=to_plain(scenario),
        host="bench",
        generation="b" * 32,
        first_lsn=8,
        disks=[DiskHello(name="d0", bytes=disk_bytes)],
    )
    feed.replica.welcome(hello, frames.control(FrameType.HELLO, hello, lsn=8), "bench")
    return feed
