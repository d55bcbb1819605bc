"""A whole stream of a master into the journal: what is taken can be followed again from the journal and says the same,
and no record of it lies outside of its disk. The images alone are not there."""

from __future__ import annotations

import threading
from pathlib import Path

import harness
import msgspec

from rha.appliance.checkpoint import Checkpoint
from rha.appliance.intake import Intake
from rha.appliance.stream import Message, StreamState
from rha.journal import extents
from rha.journal.segment import Journal
from rha.sync.blocks import UNITS
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import Hello


class NoImages:
    """In place of the images: nothing is ever applied, so nothing has to be guarded."""

    def __init__(self) -> None:
        self.applied_state, self.applied, self.guard = StreamState(), Checkpoint(), None

    def is_guard_due(self, message: Message, durable: StreamState) -> bool:
        return False

    def first_state(self, state: StreamState) -> StreamState:
        return state

    def open_first(self, state: StreamState) -> None:
        pass

    def grow(self, sizes: list[int]) -> None:
        pass

    def durable(self, position: int) -> None:
        pass


def run(data: bytes, folder: Path) -> None:
    with Journal.open(folder / "journal", segment_bytes=1 << 20) as journal:
        intake = opened(folder, journal)
        state = intake.state
        try:
            for raw in harness.frames_of(data, lambda: intake.state.lsn):
                feed(intake, raw)
        finally:
            intake.commit()
            state = intake.state
    with Journal.open(folder / "journal", segment_bytes=1 << 20) as journal:
        again = opened(folder, journal)
        again.refold(Checkpoint())
        assert again.state == state, (again.state, state)
        msgspec.json.encode(state)
        apply(journal, [disk.bytes for disk in state.disks])


def opened(folder: Path, journal: Journal) -> Intake:
    return Intake(folder, journal, NoImages(), threading.RLock(), lambda: None)  # type: ignore[arg-type]


def feed(intake: Intake, raw: bytes) -> None:
    header, payload = frames.decode_header(raw[:72]), memoryview(raw)[72:]
    if header.type is FrameType.HELLO:
        hello = frames.decode_control(header, payload, Hello)
        again = frames.control(FrameType.HELLO, hello, lsn=hello.first_lsn)
        frames.control(FrameType.WELCOME, intake.welcome(hello, again, "here"))
    elif header.type is not FrameType.HASHES:
        intake.take(header, payload)
        for disk in range(min(len(intake.state.disks), 2)):
            intake.unsent.judge(disk, header.offset % (1 << 20), UNITS[0], b"\1" * 16)


def apply(journal: Journal, sizes: list[int]) -> None:
    """As the applier takes the data frames."""
    batch = extents.Batch(sizes)
    for entry in journal.read(journal.first):
        header, payload = entry.header, entry.payload[: entry.header.raw_length]
        if header.type is FrameType.RECORDS:
            batch.add_records(payload)
        elif header.type is FrameType.RESYNC and header.flags & frames.FLAG_ZEROS:
            batch.add_zeros(header.disk, header.offset, frames.zeros_length(payload))
        elif header.type is FrameType.RESYNC:
            batch.add_range(header.disk, header.offset, payload)
    found, data = batch.reduce()
    for extent in extents.rows(found):
        assert extent.offset + extent.length <= sizes[extent.disk]
        assert extent.kind != extents.DATA or extent.data + extent.length <= len(data)
