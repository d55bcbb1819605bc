"""The journal side of a replica: greets the master, checks its frames, applies the minus rule, journals, acknowledges.

`welcome`, `take` and `commit` belong to the one connection that holds the scenario.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import rha
from rha.appliance import catalog
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.images import Images
from rha.appliance.minus import WrittenSectors
from rha.appliance.points import Place
from rha.appliance.stream import Message, StreamState, decode, fold
from rha.appliance.unsent import Unsent
from rha.errors import NetworkError, RhaError, StateError
from rha.journal import extents
from rha.journal.segment import Journal
from rha.report import Point
from rha.scenario import Scenario, from_plain
from rha.sync.free_frames import decode_ranges
from rha.wire import frames
from rha.wire.codec import Decompressor
from rha.wire.frames import BadFrame, FrameType, Header
from rha.wire.messages import PROTOCOL, DiskNeed, End, Heartbeat, Hello, Mark, Return, Rewind, Welcome

SPOOL_BYTES = 16 << 30  # durable and not yet applied; beyond it the receiver waits, and the master falls to its bitmap

_ABANDON_SECONDS = 0.5

_NEED = {
    "new": "full",
    "stale": "compare",
    "rewinding": "compare",
    "rewound": "compare",
    "syncing": "marked",
    "broken": "marked",
    "ordered": "nothing",
}


class Intake:
    """`state` is what the durable stream says; it is ahead of the images."""

    def __init__(
        self, folder: Path, journal: Journal, images: Images, lock: threading.RLock, point: Callable[[], Point | None]
    ) -> None:
        """`point`: the consistent point that the images show now. Raises StorageError."""
        self._folder, self._journal, self._images, self._lock, self._point = folder, journal, images, lock, point
        self.scenario: Scenario | None = catalog.load_scenario(folder)
        self.state: StreamState = images.applied_state
        self._written: dict[int, WrittenSectors] = {}
        self.unsent = Unsent(folder)
        self.sync_ended = journal.end  # journal position behind the last end of a sync
        self.heartbeat: Heartbeat | None = None
        self.heard_at: float | None = None  # monotonic
        self._heartbeats: list[Heartbeat] = []
        # The three above have a lock of their own: a heartbeat must be answered while `lock` is held over a slow disk.
        self._beats_lock = threading.Lock()
        self._decompressor = Decompressor()  # of the thread that takes
        self.abandoned = threading.Event()  # nobody waits any more for what `welcome` or `take` are waiting for

    def refold(self, saved: Checkpoint) -> None:
        """What the durable journal says behind the saved state, or behind the checkpoint where that is further (only
        data frames are between the two): accepted once, so only followed."""
        state = self._images.applied_state
        if saved.position > state.position and saved.lsn and state.next_lsn is not None:
            state = msgspec.structs.replace(state, next_lsn=saved.lsn)
        for entry in self._journal.read(max(saved.position, state.position), self._journal.durable):
            message = decode(entry.header, entry.payload)
            if isinstance(message, Rewind):
                self._images.history.pin(message.start)
            state = fold(state, entry.header, message, redo=True)
        self.state = state
        self.unsent.recall(self._journal, [disk.bytes for disk in state.disks])

    def rewind(self, place: Place, by: str) -> None:
        """Journals that the images are taken back to a point; the applier does it. Raises StorageError."""
        message = Rewind(
            lsn=place.lsn,
            time=place.time,
            start=place.interval.head.start.position,
            position=place.position,
            prefix=place.prefix,
            by=by,
        )
        self._images.history.pin(message.start)
        # A new LSN: the one before it goes on to mean what the images are now.
        raw = frames.control(FrameType.REWIND, message, lsn=self.state.lsn + 8)
        header = frames.decode_header(raw[: frames.HEADER_BYTES])
        try:
            self._journal.append([raw])
        except RhaError:
            self._images.history.pin(None)
            raise
        self.state = fold(self.state, header, message)
        self.commit()

    # What a substitute left -----------------------------------------------------------------------------------

    def begin_return(self) -> int:
        """Journals that sync data of the appliance's own follows: the LSN at which it stands. Raises StorageError."""
        state = self.state
        lsn = state.floor + 8 if state.next_lsn is None else state.lsn
        message = Mark(epoch=lsn, disks=list(range(len(state.disks))), method="marked")
        raw = frames.control(FrameType.MARK, message, lsn=lsn)
        self.take(frames.decode_header(raw[: frames.HEADER_BYTES]), memoryview(raw)[frames.HEADER_BYTES :])
        return lsn

    def end_return(self, moment: float, by: str) -> None:
        """Journals that the images are, from here on, what the substitute had at `moment`. Raises StorageError."""
        message = Return(time=moment, by=by)
        raw = frames.control(FrameType.RETURN, message, lsn=self.state.lsn + 8)  # a new LSN, as for a rewind
        self._journal.append([raw])
        self.state = fold(self.state, frames.decode_header(raw[: frames.HEADER_BYTES]), message)
        self._written.clear()
        self.sync_ended = self._journal.end
        self.commit()

    # Greeting -------------------------------------------------------------------------------------------------

    def welcome(self, hello: Hello, raw: bytes, host: str) -> Welcome:
        """As `Replica.welcome`."""
        scenario = self._check_hello(hello)
        self._written.clear()  # every session begins its syncs with a mark of its own
        known = hello.generation == self.state.generation and hello.first_lsn <= self.state.lsn
        if self._has_hole(hello):
            # The master no longer has what comes next. Its LSNs begin anew above all it has, and are compared.
            return self._welcome(host, known=False, floor=hello.first_lsn)
        if any(now.bytes > disk.bytes for disk, now in zip(self.state.disks, hello.disks, strict=False)):
            self._grow(hello)
        if not known and hello.first_lsn > self.state.lsn:
            self._begin_generation(hello, raw)  # without the lock: it waits for the applier, which takes it
        catalog.save_scenario(self._folder, scenario)
        self.scenario = scenario
        return self._welcome(host, known=known and self.state.next_lsn is not None, floor=self.state.lsn)

    def _has_hole(self, hello: Hello) -> bool:
        same = hello.generation == self.state.generation and self.state.next_lsn is not None
        return same and hello.first_lsn > self.state.lsn

    def _welcome(self, host: str, *, known: bool, floor: int) -> Welcome:
        return Welcome(
            protocol=PROTOCOL,
            version=rha.__version__,
            host=host,
            generation_known=known,
            durable_lsn=self.commit(),  # what a broken connection left taken and not yet synced is released now
            lsn_floor=floor,
            disks=[DiskNeed(name=d.name, need=_NEED[d.phase]) for d in self.state.disks],  # type: ignore[arg-type]
        )

    def _check_hello(self, hello: Hello) -> Scenario:
        name = self._folder.name
        if hello.protocol != PROTOCOL:
            raise NetworkError(
                "engine and appliance do not understand each other",
                cause=f"the engine ({hello.version}) speaks protocol {hello.protocol}, this appliance {PROTOCOL}",
                hint="install the same version on both",
            )
        try:
            scenario = from_plain(hello.scenario)
        except msgspec.ValidationError as error:
            raise BadFrame("the engine's scenario cannot be read", cause=str(error)) from error
        if [disk.name for disk in scenario.disk] != [disk.name for disk in hello.disks] or scenario.name != name:
            raise BadFrame("the engine contradicts itself", cause="its disks are not those of its scenario")
        for disk in hello.disks:
            if disk.bytes <= 0 or disk.bytes % 512:
                raise BadFrame("a disk of an impossible size", cause=f"{disk.name}: {disk.bytes} bytes")
        self._check_disks(hello)
        return scenario

    def _check_disks(self, hello: Hello) -> None:
        """Raises StateError when the master's disks are not those of the images."""
        causes = [
            f"{known.name} of {known.bytes} bytes here, {now.name} of {now.bytes} bytes on the master"
            for known, now in zip(self.state.disks, hello.disks, strict=False)
            if known.name != now.name or known.bytes > now.bytes
        ]
        if not causes and self.state.disks and len(self.state.disks) != len(hello.disks):
            causes = [f"{len(self.state.disks)} images here, {len(hello.disks)} disks on the master"]
        if causes:
            raise StateError(
                f"the disks of {self._folder.name} are not those of its images",
                cause=causes[0],
                hint=f"move {self._folder} aside on the appliance for a new first sync",
            )

    def _begin_generation(self, hello: Hello, raw: bytes) -> None:
        header = frames.decode_header(raw[: frames.HEADER_BYTES])
        self._guard_before(hello)
        state = fold(self.state, header, hello)
        if not self.state.disks:
            state = self._images.first_state(state)
            self._images.open_first(state)
        self._journal.append([raw])
        self.state = state
        self.commit()

    def _grow(self, hello: Hello) -> None:
        """Disks of the master have grown. The images grow before the journal says so: a crash between leaves them
        longer than they need to be."""
        self._guard_before(hello)
        self._images.grow([disk.bytes for disk in hello.disks])
        if hello.generation == self.state.generation:
            raw = frames.control(FrameType.HELLO, hello, lsn=self.state.lsn)
            state = fold(self.state, frames.decode_header(raw[: frames.HEADER_BYTES]), hello)
            self._journal.append([raw])
            self.state = state
            self.commit()

    # Frames ---------------------------------------------------------------------------------------------------

    def take(self, header: Header, payload: memoryview) -> None:
        """As `Replica.take`."""
        if header.type is FrameType.HEARTBEAT:
            self._hear(frames.decode_control(header, payload, Heartbeat))
        elif header.type in frames.JOURNALED and header.type is not FrameType.HELLO:
            self._journal_frame(header, payload)
        elif header.type is FrameType.FREE:
            self._take_free(header, payload)
        else:
            raise BadFrame("a frame out of turn", cause=f"{header.type.name} in the middle of a stream")

    def _hear(self, beat: Heartbeat) -> None:
        with self._beats_lock:
            self.heartbeat, self.heard_at = beat, time.monotonic()
            if self._images.applied.lsn >= beat.captured_lsn:
                self._heartbeats = [beat]
            elif len(self._heartbeats) < 2:
                self._heartbeats.append(beat)

    def heartbeats(self) -> list[Heartbeat]:
        """Those that the images may have passed since."""
        with self._beats_lock:
            return list(self._heartbeats)

    def _journal_frame(self, header: Header, payload: memoryview) -> None:
        header, payload = self._decompressor.unpack(header, payload)
        message = decode(header, payload)
        state = fold(self.state, header, message)
        self._guard_before(message)
        if header.type is FrameType.RECORDS:
            extents.check_records(payload[: header.raw_length], [disk.bytes for disk in state.disks])
            for written in self._written.values():
                written.add_records(payload[: header.raw_length])
            self.unsent.follow(header, payload)
        if header.type is FrameType.RESYNC:
            self._journal_resync(header, payload)
        else:
            self._append(header, payload)
        self.state = state
        self._follow_sync(state, message)
        if isinstance(message, End):
            self.sync_ended = self._journal.end

    def _guard_before(self, message: Message) -> None:
        """Called before a frame that may end consistency is taken: the images catch up and are guarded."""
        if not self._images.is_guard_due(message, self.state):
            return
        self.commit()
        while not self._images.wait_applied(self._journal.durable, _ABANDON_SECONDS):
            if self.abandoned.is_set():
                cause = f"{self._journal.durable - self._images.applied.position} bytes were still to be applied"
                raise StateError("the connection ended while the images caught up", cause=cause)
        point = self._point()
        if point is not None:
            self._images.begin_guard(point)

    def _append(self, header: Header, payload: memoryview) -> None:
        head = frames.encode(
            header.type,
            payload,
            lsn=header.lsn,
            seq=header.seq,
            disk=header.disk,
            offset=header.offset,
            flags=header.flags,
            time_ns=header.time_ns,
            raw_length=header.raw_length,
            payload_sum=header.payload_sum,
        )
        self._journal.append([head, payload])

    def _follow_sync(self, state: StreamState, message: Message) -> None:
        """The minus rule counts from the mark to the end of a sync, or to the next mark when it was broken off."""
        if isinstance(message, Mark):
            for disk in message.disks:
                self._written[disk] = WrittenSectors(disk, state.disks[disk].bytes)
            for disk, method in zip(
                message.disks, message.methods or [message.method] * len(message.disks), strict=False
            ):
                if method != "marked":
                    self.unsent.clear(disk)
        for disk in list(self._written):
            if state.disks[disk].phase not in ("syncing", "broken"):
                del self._written[disk]

    def _journal_resync(self, header: Header, payload: memoryview) -> None:
        """A range that was read from the disk, without what the stream has written since the mark."""
        zeros = bool(header.flags & frames.FLAG_ZEROS)
        length = frames.zeros_length(payload) if zeros else header.raw_length
        size = self.state.disks[header.disk].bytes
        if header.offset % 512 or length % 512 or header.offset + length > size or length == 0:
            raise BadFrame("sync data beyond its disk", cause=f"{length} bytes at {header.offset} of {size}")
        written = self._written.get(header.disk)
        if written is None:
            raise BadFrame("sync data outside a sync", cause=f"disk {header.disk}: no mark in this session")
        for offset, count in written.without(header.offset, length):
            at = offset - header.offset
            part = frames.zeros_payload(count) if zeros else payload[at : at + count]
            is_all = count == length and len(part) == len(payload)  # mostly: nothing was taken out
            head = frames.encode(
                FrameType.RESYNC,
                part,
                lsn=header.lsn,
                seq=header.seq,
                disk=header.disk,
                offset=offset,
                flags=header.flags,
                payload_sum=header.payload_sum if is_all else None,
            )
            self._journal.append([head, part])
            self.unsent.follow(frames.decode_header(head), part)

    def _take_free(self, header: Header, payload: memoryview) -> None:
        """Ranges that the sync leaves out. What the stream has written there since the mark is not among them."""
        written = self._written.get(header.disk)
        if written is None:
            raise BadFrame("free ranges outside a sync", cause=f"disk {header.disk}: no mark in this session")
        size = self.state.disks[header.disk].bytes
        ranges = decode_ranges(payload[: header.raw_length], size)
        left = [part for offset, length in ranges for part in written.without(offset, length)]
        self.unsent.add(header.disk, size, left)

    def commit(self) -> int:
        """As `Replica.commit`."""
        durable = self._journal.sync()
        self.unsent.save_if_due(durable)
        self._images.durable(durable)
        return self.state.lsn
