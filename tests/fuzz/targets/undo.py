"""Undo files: the window opens or says that its points are lost; what is kept can be shown at every byte."""

from __future__ import annotations

from pathlib import Path

import harness
import msgspec

from rha.appliance import undo
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.history import History
from rha.appliance.points import Place
from rha.appliance.pointview import PointView
from rha.appliance.stream import DiskState, StreamState
from rha.appliance.undo import Head
from rha.appliance.window import Limits
from rha.journal.segment import Journal
from rha.wire.frames import FrameType

DISK_BYTES = 1 << 20
STATE = StreamState(generation="g", next_lsn=0, disks=(DiskState(name="d0", bytes=DISK_BYTES, phase="ordered"),))
HEAD = Head(start=Checkpoint(), stream=STATE, before_start=None, before_end=0, base=0, created=0.0)


class Image:
    """Reads as ones, all of it used."""

    def read(self, disk: int, offset: int, length: int) -> bytes:
        return b"\1" * length

    def used(self, disk: int, offset: int, length: int) -> list[tuple[int, int]]:
        return [(offset, length)]


def run(data: bytes, folder: Path) -> None:
    """The first byte: 1: the head is as it comes; 2: the whole file is."""
    if not data:
        return
    mode, data = data[0], data[1:]
    head = b"" if mode & 1 else harness.frame(FrameType.INTERVAL, msgspec.json.encode(HEAD))
    body = data if mode & 2 else b"".join(harness.frames_of(head + data))
    (folder / "undo").mkdir()
    undo.path_of(folder / "undo", 0).write_bytes(body)
    history = History(folder / "undo", Limits(1e9, 1 << 30, 0), lambda saved: STATE)
    with Journal.open(folder / "journal") as journal:
        try:
            history.open([DISK_BYTES], Checkpoint())
            for interval in history.intervals:
                show(PointView(history, journal, Place(interval, 0, 0, 0, 0.0), Image()))
        finally:
            history.close()


def show(view: PointView) -> None:
    try:
        for disk, size in enumerate(view.disk_bytes):
            size = min(size, DISK_BYTES)
            assert len(view.read(disk, 0, size)) == size
            assert sum(length for length, _ in view.status(disk, 0, size)) <= size
            assert all(offset + length <= view.disk_bytes[disk] for offset, length in view.changed(disk))
    finally:
        view.close()
