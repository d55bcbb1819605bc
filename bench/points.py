"""Points: what undo costs, and how soon one can be looked at. Prints figures.

Usage: bench/points.py [FOLDER [CHURN_MEGABYTES [DISK_MEGABYTES]]]. The disk is full of data first; then random 4 KiB
writes go through the applier with undo, and the point before the first of them is opened.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tempfile
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

    def churn(self, megabytes: int, disk_bytes: int, size: int = SIZE) -> int:
        """Random writes; returns how many places were touched."""
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
        return len(touched)


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


def measure(folder: Path, churn: int, disk: int) -> None:
    feed = opened(folder, disk * PIECE)
    feed.sync(disk)
    while not feed.replica.points.list().intervals:
        time.sleep(0.05)
    begin = time.perf_counter()
    before, touched = feed.lsn, feed.churn(churn, disk * PIECE)
    seconds = time.perf_counter() - begin
    listing = feed.replica.points.list()
    undo = feed.replica._images.history.size()
    print(f"churn {churn} MiB of 4 KiB with undo   {churn * PIECE / 1e6 / seconds:7.0f} MB/s")
    print(f"undo {undo / PIECE:.0f} MiB in {listing.intervals} intervals, touched {touched * SIZE / PIECE:.0f} MiB")
    begin = time.perf_counter()
    point = feed.replica.points.open(str(before))
    print(f"point before it, overlay ready          {time.perf_counter() - begin:7.2f} s")
    command = ["qemu-img", "bench", "-f", "qcow2", "-c", "5000", "-s", "65536", "-S", "65536", "-U", "-d", "8"]
    begin = time.perf_counter()
    subprocess.run([*command, str(point.overlays()[0].path)], check=True, capture_output=True)
    print(f"reading 64 KiB pieces of it             {5000 * 65536 / 1e6 / (time.perf_counter() - begin):7.0f} MB/s")
    feed.replica.points.close(point.name)
    begin = time.perf_counter()
    feed.replica.rewind(str(before), "bench")
    print(f"rewind                                  {time.perf_counter() - begin:7.2f} s")
    feed.replica.close()


def main() -> None:
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    churn, disk = (int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((2, 2048), (3, 2048)))
    with tempfile.TemporaryDirectory(dir=base) as folder:
        measure(Path(folder), churn, disk)


if __name__ == "__main__":
    main()
