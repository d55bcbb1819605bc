"""How fast the applier is: journal → extents → storage daemon → qcow2. Prints MB/s (10^6) by size of the writes.

Usage: bench/apply.py [FOLDER [MEGABYTES]]. The journal is filled first and its pages are cached, as on a busy host.
`new` writes clusters that the image does not have yet, `again` overwrites them.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import tempfile
import time
from pathlib import Path

from rha.appliance.apply import Applier
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType

DISK_BYTES = 8 << 30
FRAME_BYTES = 1 << 20


def fill(journal: Journal, size: int, offsets: list[int], lsn: int) -> int:
    """Journals one write of `size` bytes for each offset, in frames of about 1 MiB; returns the LSN after them."""
    payload, run = os.urandom(size), []
    for number, offset in enumerate(offsets, 1):
        run.append(struct.pack("<IIQIHBBQ", 24 + size, 0, offset // 512, size, 0, 1, 0, 1) + payload)
        if len(run) * size >= FRAME_BYTES or number == len(offsets):
            whole = b"".join(run)
            journal.append([frames.encode(FrameType.RECORDS, whole, lsn=lsn), whole])
            lsn += len(whole)
            run.clear()
    journal.sync()
    return lsn


def timed(applier: Applier, journal: Journal, megabytes: float) -> float:
    """MB/s from the first write to the last answer."""
    begin = time.perf_counter()
    applier.durable(journal.durable)
    applier.wait_applied(journal.end)
    return megabytes / (time.perf_counter() - begin)


def measure(folder: Path, size: int, total: int) -> str:
    """One size on a new image: a line of the table."""
    formats.create(folder / "disk.qcow2", DISK_BYTES)
    offsets = [place * size for place in random.sample(range(DISK_BYTES // size), total // size)]
    spec = ImageSpec("disk", folder / "disk.qcow2", "qcow2")
    with (
        StorageDaemon([spec], folder / "run") as daemon,
        daemon.writer("disk") as writer,
        Journal.open(folder / "journal") as journal,
    ):
        applier = Applier(journal, [writer], folder / "checkpoint")
        applier.start()
        lsn = fill(journal, size, offsets, 0)
        new = timed(applier, journal, total / 1e6)
        fill(journal, size, offsets, lsn)
        again = timed(applier, journal, total / 1e6)
        applier.stop()
    return f"{size >> 10:5} KiB random   new {new:7.0f} MB/s   again {again:7.0f} MB/s"


def main() -> None:
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    total = int(sys.argv[2]) * 1_000_000 if len(sys.argv) > 2 else 256 << 20
    for size in (4096, 65536, 1 << 20):
        with tempfile.TemporaryDirectory(dir=base) as folder:
            print(measure(Path(folder), size, total // size * size), flush=True)


if __name__ == "__main__":
    main()
