"""Moves the stream from a filling ring to the spool: the thread, and the decision when to."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import NamedTuple

from rha.capture.capture import Capture
from rha.capture.location import why_not_beside
from rha.capture.ring import Region
from rha.capture.spared import volume_of
from rha.engine.backlog import Backlog
from rha.engine.sparing import Moved, Sparing
from rha.engine.spool import CHUNK_BYTES, Chunk, Spool
from rha.errors import RhaError, StorageError
from rha.report import SpoolReport
from rha.scenario import Scenario
from rha.units import show_bytes

BEGIN, ENOUGH = 0.5, 0.25  # how full the ring is when spooling begins, and when it has done enough
GROUP_BYTES = 8 << 20  # per fsync
LOOK_SECONDS = 0.05  # at 1 GB/s half of a ring of 256 MiB fills in 130 ms
_FIRST_TIME = struct.Struct("<24xQ")  # ring header, then time_ns in struct rha_record


class Decision(NamedTuple):
    """Whether to move records now, and why."""

    spill: bool
    why: str


def decide(ring_used: float, room: int, used_bytes: int, *, was_spilling: bool) -> Decision:
    """`ring_used`: 0 to 1. `room` and `used_bytes`: of the spool. Spooling goes on until the ring has some air again:
    each fsync then moves a large piece."""
    held = f"holds {show_bytes(used_bytes)} that wait for the appliance"
    if ring_used < (ENOUGH if was_spilling else BEGIN):
        return Decision(False, held if used_bytes else "empty: the ring suffices")
    if room < CHUNK_BYTES:
        return Decision(False, f"full: {held}; the ring is {ring_used:.0%} full")
    return Decision(True, f"takes over from the ring ({ring_used:.0%} full); {held}")


def prepare(scenario: Scenario, capture: Capture, on_moved: Moved) -> tuple[Backlog, Spooler]:
    """The backlog of a scenario and what spools it. A spool that cannot be used is named in `alarm`; the disks are
    protected without it. `on_moved`: as for Sparing."""
    sparing, spool, failure = Sparing(capture, on_moved), None, ""
    try:
        if scenario.spool:
            spool = _opened(Path(scenario.spool.path), int(scenario.spool.size), capture, sparing)
        else:
            sparing.give_up("the scenario has no spool any more")
    except (RhaError, OSError) as error:
        failure = str(error).replace("\n", "; ")
        sparing.give_up(failure)
    backlog = Backlog(capture, spool)
    return backlog, Spooler(capture, backlog, sparing, failure)


def _opened(path: Path, size: int, capture: Capture, sparing: Sparing) -> Spool:
    """The spool. On a watched disk its writes are spared; where that cannot be, no file is left behind."""
    is_beside = why_not_beside(path, capture.devices) is None
    if not is_beside:
        volume_of(path, capture.devices)
    is_new = not path.exists()
    spool = Spool.open(path, size, capture.generation, capture.ring.consumer)
    try:
        if is_beside:
            sparing.give_up(f"{path} lies on no watched disk any more")
        else:
            sparing.begin(spool.file, path)
    except (RhaError, OSError):
        spool.close()
        if is_new:
            path.unlink()
        raise
    return spool


class Spooler(threading.Thread):
    """Without a spool it does nothing. `failure`: why there is none though one was asked for, or what it died of."""

    def __init__(self, capture: Capture, backlog: Backlog, sparing: Sparing, failure: str) -> None:
        super().__init__(name="spooler", daemon=True)
        self._backlog, self._spool, self._failure = backlog, backlog.spool, failure
        self._sparing = sparing
        self._decision = Decision(False, "")
        self._reader = capture.second_reader() if self._spool else capture.ring  # the latter is not used
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends it, and lets go of the file."""
        self._stopping.set()
        self.join()
        if self._spool:
            self._reader.close()
            self._spool.close()

    def report(self) -> SpoolReport | None:
        """How the spool is; None when there is none."""
        if self._spool is None:
            return None
        return SpoolReport(
            path=str(self._spool.path),
            bytes=self._spool.capacity,
            used_bytes=self._spool.used_bytes,
            why=self._failure or self._decision.why,
        )

    def alarm(self) -> str:
        """What a person should know; empty when nothing."""
        if self._failure:
            return self._failure
        return f"spool {self._decision.why}" if self._decision.why.startswith("full") else ""

    def run(self) -> None:
        while self._spool and not self._stopping.wait(LOOK_SECONDS):
            try:
                self._keep_spared()
                while self._look(self._spool).spill and not self._stopping.is_set():
                    if not self._move(self._spool):
                        break
                    self._keep_spared()
            except (OSError, RhaError) as error:
                self._failure = f"the spool {self._spool.path} is not used any more: {error}".replace("\n", "; ")
                return

    def _keep_spared(self) -> None:
        if why := self._sparing.keep():
            raise StorageError("its writes would be captured", cause=why)

    def _look(self, spool: Spool) -> Decision:
        backlog = self._backlog
        room = backlog.room(backlog.ring_begin, 0)
        self._decision = decide(backlog.ring_used, room, spool.used_bytes, was_spilling=self._decision.spill)
        return self._decision

    def _move(self, spool: Spool) -> bool:
        """Moves one group, made durable by one fsync. False when there was nothing that could be moved."""
        turn, chunks, size = self._backlog.turn, list[Chunk](), 0
        while size < GROUP_BYTES:
            region = self._backlog.next_to_spool(self._reader, CHUNK_BYTES)
            first = chunks[0].begin if chunks else region.begin
            if region.begin == region.end or region.end - first > self._backlog.room(first, len(chunks)):
                self._reader.seek(region.begin)
                break
            chunks.append(spool.write(region.begin, bytes(region.data), first_time(region)))
            size += region.end - region.begin
        if chunks:
            spool.sync()
            self._backlog.spooled(chunks, turn)
        return bool(chunks)


def first_time(region: Region) -> int:
    """CLOCK_MONOTONIC of the first record, or near it where the probe gave that one up."""
    return int(_FIRST_TIME.unpack_from(region.data)[0]) if len(region.data) >= _FIRST_TIME.size else region.last_time_ns
