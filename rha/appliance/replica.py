"""One scenario on the appliance: its journal, its images, and how far each of them is.

Folder of a scenario, below the store:

    scenario.json    as the master last sent it        stream.json      what the stream said up to the images' state
    journal/         the durable stream                checkpoint.json  where redo begins
    images/DISK.qcow2                                  run/             sockets of the storage daemon
    guard.json       a consistent point is kept below overlays (guard.py)

Threads: `take` and `commit` belong to the one connection that holds the scenario; the applier has its own; everything
else may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

import rha
from rha.appliance import catalog, checkpoint, guard
from rha.appliance.apply import Applier
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.config import Config
from rha.appliance.minus import WrittenSectors
from rha.appliance.stream import Message, StreamState, decode, fold
from rha.errors import NetworkError, RhaError, StateError
from rha.image import formats
from rha.image.storage_daemon import ImageReader, ImageSpec, ImageWriter, StorageDaemon
from rha.journal import extents
from rha.journal.segment import Entry, Journal
from rha.report import Point, Report
from rha.scenario import Scenario, from_plain
from rha.wire import frames
from rha.wire.codec import Decompressor
from rha.wire.frames import BadFrame, FrameType, Header
from rha.wire.messages import PROTOCOL, DiskNeed, End, Gap, Heartbeat, Hello, Mark, Welcome

SPOOL_BYTES = 16 << 30  # durable and not yet applied; beyond it the receiver waits, and the master falls to its bitmap

T = TypeVar("T")
_NEED = {"new": "full", "stale": "compare", "syncing": "marked", "broken": "marked", "ordered": "nothing"}


class Replica:
    """Raises StorageError when something on disk is damaged or in use."""

    def __init__(self, folder: Path, config: Config, *, retired: bool = False) -> None:
        """`retired`: a substitute VM has the images; they stay closed until `restore_images`."""
        self.folder, self._config = folder, config
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name = folder.name
        self.scenario: Scenario | None = catalog.load_scenario(folder)
        # The storage daemon is killed by the kernel when the thread that started it ends, so one thread lives for that.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix=f"keeper-{self.name}")
        self._lock = threading.RLock()
        self._journal = Journal.open(folder / "journal")
        self._applied_state = catalog.load_stream(folder)
        self._state = self._applied_state  # what the durable stream says; ahead of the images
        self._redo_until = self._applied_state.position  # below it the images may be behind the saved state
        self._written: dict[int, WrittenSectors] = {}
        self._decompressor = Decompressor()  # of the thread that takes
        self._read_lock = threading.Lock()  # the readers; taken after _lock, never before it
        self._readers: dict[int, ImageReader] = {}
        self._daemon: StorageDaemon | None = None
        self._writers: list[ImageWriter] = []
        self._applier: Applier | None = None
        # How far the images were when they were closed; valid while they are.
        self._closed_at = checkpoint.load(folder / "checkpoint.json")
        self._guard: guard.Guard | None = None
        self._sync_ended = self._journal.end  # journal position behind the last end of a sync
        self._merging = False
        self._merge_failure: str | None = None
        self._images_changed = threading.Condition(self._lock)
        self._is_retired = retired
        self._heartbeat: Heartbeat | None = None
        self._heard_at: float | None = None  # monotonic
        self._heartbeats_passed: list[Heartbeat] = []
        # The three above have a lock of their own: a heartbeat must be answered while _lock is held over a slow disk.
        self._beats_lock = threading.Lock()
        self.is_connected = False
        self.peer = ""
        if self._state.disks:
            self._guard = guard.load(folder, self.base_specs())
            if not retired:
                self._open_images()
            self._refold(self._closed_at)

    # Opening and closing --------------------------------------------------------------------------------------

    def _keep(self, act: Callable[[], T]) -> T:
        """Runs something in the thread that lives as long as the replica."""
        return self._keeper.submit(act).result()

    def base_specs(self) -> list[ImageSpec]:
        """The images in the order of the scenario's disks."""
        form = self._config.image_format
        return [ImageSpec(d.name, self.folder / "images" / f"{d.name}.{form}", form) for d in self._state.disks]

    def image_specs(self) -> list[ImageSpec]:
        """What is written to: the images, or the overlays that guard them."""
        bases = self.base_specs()
        return [guard.overlay_of(spec) for spec in bases] if self._guard and not self._guard.on_base else bases

    def _open_images(self) -> None:
        (self.folder / "images").mkdir(exist_ok=True, mode=0o700)
        for spec, disk in zip(self.base_specs(), self._state.disks, strict=True):
            if not spec.path.exists() and disk.phase == "new":
                formats.create(spec.path, disk.bytes, self._config.image_format)
        specs = self.image_specs()
        daemon = StorageDaemon(specs, self.folder / "run")
        self._keep(daemon.start)
        writers = [daemon.writer(spec.name) for spec in specs]
        applier = Applier(
            self._journal,
            writers,
            self.folder / "checkpoint.json",
            on_frame=self._on_applied_frame,
            keep_bytes=int(self._config.journal_keep),
            name=f"apply-{self.name}",
        )
        with self._images_changed:
            self._daemon, self._writers, self._applier = daemon, writers, applier
            self._closed_at = applier.saved
            self._images_changed.notify_all()
        applier.start()
        applier.durable(self._journal.durable)

    def _refold(self, saved: Checkpoint) -> None:
        """What the durable journal says behind the saved state, or behind the checkpoint where that is further (only
        data frames are between the two): accepted once, so only followed."""
        state = self._applied_state
        if saved.position > state.position and saved.lsn and state.next_lsn is not None:
            state = msgspec.structs.replace(state, next_lsn=saved.lsn)
        for entry in self._journal.read(max(saved.position, state.position), self._journal.durable):
            state = fold(state, entry.header, decode(entry.header, entry.payload), redo=True)
        self._state = state

    def close_images(self) -> None:
        """Finishes the batch at hand, writes the checkpoint, lets go of the images. What is received meanwhile waits in
        the journal. Raises StorageError."""
        with self._lock:
            applier, daemon, writers = self._applier, self._daemon, self._writers
            if applier:  # a report between here and the checkpoint must not fall back to an older one
                self._closed_at = applier.applied
            self._applier = self._daemon = None
            self._writers = []
        with self._read_lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        if applier:
            applier.stop()
            self._closed_at = applier.saved
        for writer in writers:
            writer.close()
        if daemon:
            self._keep(daemon.stop)

    # Guarding the last consistent point -----------------------------------------------------------------------

    def _guard_before(self, message: Message) -> None:
        """Called before a frame that may end consistency is taken."""
        if not isinstance(message, Gap | Mark | Hello) or not self._state.disks:
            return
        with self._images_changed:
            self._images_changed.wait_for(lambda: not self._merging)
        if self._guard is None and self._state.why_not_consistent():
            return  # the images show no point that could be kept
        if self._guard and not self._guard.on_base:
            return
        self.commit()
        self.wait_applied()
        point = self.point()
        if point is None:
            return
        self.close_images()
        guarded = guard.Guard(point=point)
        try:
            guard.begin(self.folder, self.base_specs(), guarded)
            with self._lock:
                self._guard = guarded
        finally:
            self._open_images()

    def tend(self) -> None:
        """Ends the guard, beside the stream, once the images are consistent without it. Cheap when there is nothing."""
        with self._lock:
            if self._guard is None or self._guard.on_base or self._merging or self._is_retired:
                return
            # The images may be consistent still because they lag: they must have come past the end of the sync.
            applied = self._applier.applied_position if self._applier else 0
            if self._state.why_not_consistent() or applied < self._sync_ended or self.why_not_consistent():
                return
            self._merging = True
        threading.Thread(target=self._merge, name=f"merge-{self.name}", daemon=True).start()

    def _merge(self) -> None:
        try:
            self.close_images()
            guard.merge(self.folder, self.base_specs())
            with self._lock:
                self._guard = None
                self._merge_failure = None
            self._open_images()
        except RhaError as error:
            self._merge_failure = str(error).replace("\n", "; ")
        finally:
            with self._images_changed:
                self._merging = False
                self._images_changed.notify_all()

    # Handing the images to a substitute ------------------------------------------------------------------------

    def retire(self) -> None:
        """Receives no more; a merge that runs is waited for."""
        with self._images_changed:
            self._is_retired = True
            self._images_changed.notify_all()
            self._images_changed.wait_for(lambda: not self._merging)

    def apply_spool(self, timeout: float) -> bool:
        """Applies everything durable, whether images are open or not yet. False when the time (seconds) is over.
        Raises StorageError."""
        if self._applier is None:
            self._open_images()
        return self.wait_applied(timeout=timeout)

    def give_up_images(self) -> list[ImageSpec]:
        """Closes the images for a substitute. Returns those that show `point()`, in the order of the disks: in the
        middle of a sync the guarded ones, and the half of a sync is dropped. Raises StorageError."""
        self.close_images()
        with self._lock:
            if self._guard and not self._guard.on_base and self.why_not_consistent():
                self._declare_stale()
                self._guard = guard.drop(self.folder, self.base_specs(), self._guard)
            return self.image_specs()

    def _declare_stale(self) -> None:
        """The images are not where the journal is any more: whatever the master says next, they must be compared."""
        disks = tuple(msgspec.structs.replace(disk, phase="stale", why="") for disk in self._state.disks)
        floor = self._state.lsn
        position = self._journal.durable
        self._state = self._applied_state = StreamState(floor=floor, position=position, disks=disks)
        catalog.save_stream(self.folder, self._state)
        self._closed_at = Checkpoint(position=position, lsn=floor, time_ns=self._closed_at.time_ns)
        checkpoint.save(self.folder / "checkpoint.json", self._closed_at)

    def restore_images(self) -> None:
        """The substitute is gone: receives again. Raises StorageError."""
        with self._lock:
            self._is_retired = False
        if self._applier is None and self._state.disks:
            self._open_images()

    def why_no_point_after_spool(self) -> str | None:
        """The reason why there will be no point to boot, even when everything durable is applied; None: there is
        one."""
        with self._lock:
            return None if self._guard else self._state.why_not_consistent()

    def close(self) -> None:
        """Everything stopped and on disk. Raises StorageError when the images could not be closed well."""
        with self._images_changed:
            self._images_changed.wait_for(lambda: not self._merging)
        try:
            self.close_images()
        finally:
            self._journal.close()
            self._keeper.shutdown()

    # The connection -------------------------------------------------------------------------------------------

    def welcome(self, hello: Hello, raw: bytes, host: str) -> Welcome:
        """Answers a master whose certificate was checked. `raw`: the whole HELLO frame, journalled when a new
        generation begins.

        Raises NetworkError, StateError or StorageError when this stream cannot be taken.
        """
        scenario = self._check_hello(hello)
        with self._lock:
            self._written.clear()  # every session begins its syncs with a mark of its own
            known = hello.generation == self._state.generation and hello.first_lsn <= self._state.lsn
            if self._has_hole(hello):
                # The master no longer has what comes next. Its LSNs begin anew above all it has, and are compared.
                return self._welcome(host, known=False, floor=hello.first_lsn)
            if not known and hello.first_lsn > self._state.lsn:
                self._begin_generation(hello, raw)
            catalog.save_scenario(self.folder, scenario)
            self.scenario = scenario
            return self._welcome(host, known=known and self._state.next_lsn is not None, floor=self._state.lsn)

    def _has_hole(self, hello: Hello) -> bool:
        state = self._state
        same = hello.generation == state.generation and state.next_lsn is not None
        return same and hello.first_lsn > state.lsn

    def _welcome(self, host: str, *, known: bool, floor: int) -> Welcome:
        return Welcome(
            protocol=PROTOCOL,
            version=rha.__version__,
            host=host,
            generation_known=known,
            durable_lsn=self.commit(),  # what a broken connection left taken and not yet synced is released now
            lsn_floor=floor,
            disks=[DiskNeed(name=d.name, need=_NEED[d.phase]) for d in self._state.disks],  # type: ignore[arg-type]
        )

    def _check_hello(self, hello: Hello) -> Scenario:
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
        if [disk.name for disk in scenario.disk] != [disk.name for disk in hello.disks] or scenario.name != self.name:
            raise BadFrame("the engine contradicts itself", cause="its disks are not those of its scenario")
        for disk in hello.disks:
            if disk.bytes <= 0 or disk.bytes % 512:
                raise BadFrame("a disk of an impossible size", cause=f"{disk.name}: {disk.bytes} bytes")
        for known, now in zip(self._state.disks, hello.disks, strict=False):
            if known.name != now.name or known.bytes != now.bytes:
                raise StateError(
                    f"the disks of {self.name} are not those of its images",
                    cause=f"{known.name} of {known.bytes} bytes here, {now.name} of {now.bytes} bytes on the master",
                    hint=f"move {self.folder} aside on the appliance for a new first sync",
                )
        if self._state.disks and len(self._state.disks) != len(hello.disks):
            raise StateError(
                f"the disks of {self.name} are not those of its images",
                cause=f"{len(self._state.disks)} images here, {len(hello.disks)} disks on the master",
                hint=f"move {self.folder} aside on the appliance for a new first sync",
            )
        return scenario

    def _begin_generation(self, hello: Hello, raw: bytes) -> None:
        header = frames.decode_header(raw[: frames.HEADER_BYTES])
        self._guard_before(hello)
        state = fold(self._state, header, hello)
        if not self._state.disks:
            self._open_first_images(state)
        self._journal.append([raw])
        self._state = state
        self.commit()

    def _open_first_images(self, state: StreamState) -> None:
        """Creates the images. What cannot be made now is made at the next greeting: nothing is noted before."""
        before = self._state
        self._state = self._applied_state = state
        try:
            self._open_images()
            catalog.save_stream(self.folder, state)
        except RhaError:
            self.close_images()
            self._state = self._applied_state = before
            raise

    def take(self, header: Header, payload: memoryview) -> None:
        """One checked frame of the stream: appended to the journal, or heard.

        Raises BadFrame when it cannot stand here, StorageError when the journal cannot take it.
        """
        if header.type is FrameType.HEARTBEAT:
            self._hear(frames.decode_control(header, payload, Heartbeat))
        elif header.type in frames.JOURNALED and header.type is not FrameType.HELLO:
            self._journal_frame(header, payload)
        else:
            raise BadFrame("a frame out of turn", cause=f"{header.type.name} in the middle of a stream")

    def _journal_frame(self, header: Header, payload: memoryview) -> None:
        header, payload = self._decompressor.unpack(header, payload)
        message = decode(header, payload)
        state = fold(self._state, header, message)
        self._guard_before(message)
        if header.type is FrameType.RECORDS:
            extents.check_records(payload[: header.raw_length], [disk.bytes for disk in state.disks])
            for written in self._written.values():
                written.add_records(payload[: header.raw_length])
        if header.type is FrameType.RESYNC:
            self._journal_resync(header, payload)
        else:
            self._append(header, payload)
        self._state = state
        self._follow_sync(state, message)
        if isinstance(message, End):
            self._sync_ended = self._journal.end

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
        for disk in list(self._written):
            if state.disks[disk].phase not in ("syncing", "broken"):
                del self._written[disk]

    def _journal_resync(self, header: Header, payload: memoryview) -> None:
        """A range that was read from the disk, without what the stream has written since the mark."""
        zeros = bool(header.flags & frames.FLAG_ZEROS)
        length = frames.zeros_length(payload) if zeros else header.raw_length
        size = self._state.disks[header.disk].bytes
        if header.offset % 512 or length % 512 or header.offset + length > size or length == 0:
            raise BadFrame("sync data beyond its disk", cause=f"{length} bytes at {header.offset} of {size}")
        written = self._written.get(header.disk)
        if written is None:
            raise BadFrame("sync data outside a sync", cause=f"disk {header.disk}: no mark in this session")
        for offset, count in written.without(header.offset, length):
            at = offset - header.offset
            part = frames.zeros_payload(count) if zeros else payload[at : at + count]
            head = frames.encode(
                FrameType.RESYNC,
                part,
                lsn=header.lsn,
                seq=header.seq,
                disk=header.disk,
                offset=offset,
                flags=header.flags,
            )
            self._journal.append([head, part])

    def commit(self) -> int:
        """Makes durable what was taken, lets the applier go on. Returns the durable LSN. Raises StorageError."""
        position = self._journal.sync()
        applier = self._applier
        if applier:
            applier.durable(position)
        return self._state.lsn

    def spool_full(self) -> bool:
        """True while the receiver should wait for the applier."""
        return self.spool_bytes() > SPOOL_BYTES

    def heard(self) -> None:
        """Something came from the master. A frame of many bytes may be long under way: it is no silence."""
        self._heard_at = time.monotonic()

    def _hear(self, beat: Heartbeat) -> None:
        with self._beats_lock:
            self._heartbeat, self._heard_at = beat, time.monotonic()
            if self.applied_lsn >= beat.captured_lsn:
                self._heartbeats_passed = [beat]
            elif len(self._heartbeats_passed) < 2:
                self._heartbeats_passed.append(beat)

    # The images' side -----------------------------------------------------------------------------------------

    def _on_applied_frame(self, entry: Entry) -> None:
        """In the applier's thread, once everything before the frame is in the images."""
        with self._lock:
            if entry.position < self._applied_state.position:
                return  # redone after a crash; the saved state knows it already
            message = decode(entry.header, entry.payload)
            state = fold(self._applied_state, entry.header, message, redo=True)
            self._applied_state = msgspec.structs.replace(state, position=entry.next_position)
            catalog.save_stream(self.folder, self._applied_state)

    @property
    def applied_lsn(self) -> int:
        applier = self._applier
        return applier.applied_lsn if applier else self._closed_at.lsn

    @property
    def durable_lsn(self) -> int:
        return self._state.lsn

    def spool_bytes(self) -> int:
        """Durable and not yet applied."""
        applier = self._applier
        applied = applier.applied_position if applier else self._closed_at.position
        return max(0, self._journal.durable - applied)

    def why_not_consistent(self) -> str | None:
        """The reason why the images are, as they stand, no state of the master; None when they are one."""
        with self._lock:
            state, applier = self._applied_state, self._applier
            if (applier.applied_position if applier else self._closed_at.position) < self._redo_until:
                return "what was not yet on stable storage before a crash is applied again"
            if state.next_lsn is not None or self.applied_lsn > state.floor:
                state = msgspec.structs.replace(state, next_lsn=self.applied_lsn)
            return state.why_not_consistent()

    def point(self) -> Point | None:
        """The consistent point that can be booted now: the images as they are, else the guarded one; None when there is
        neither. Its time is the master's: every write submitted before it is in the images."""
        with self._lock:
            if self.why_not_consistent():
                return self._guard.point if self._guard else None
            applier = self._applier
            moment = (applier.applied_time_ns if applier else self._closed_at.time_ns) / 1e9
            with self._beats_lock:
                passed = [beat.time for beat in self._heartbeats_passed if self.applied_lsn >= beat.captured_lsn]
            moment = max([moment, *passed])
            return Point(lsn=self.applied_lsn, time=moment)

    def read_image(self, disk: int, offset: int, length: int) -> bytes:
        """Bytes of an image as it is now; waits while the images are closed for a merge.

        Raises BadFrame when the range is not on the disk, StateError when a substitute VM has the images.
        """
        if not 0 <= disk < len(self._state.disks) or offset + length > self._state.disks[disk].bytes:
            raise BadFrame("a range that the disk does not have", cause=f"{length} bytes at {offset} of disk {disk}")
        while True:
            self._await_open()
            with self._read_lock:
                daemon = self._daemon
                if daemon is None:
                    continue
                if disk not in self._readers:
                    self._readers[disk] = daemon.reader(self._state.disks[disk].name)
                return self._readers[disk].read(offset, length)

    def _await_open(self, timeout: float | None = None) -> Applier:
        with self._images_changed:
            self._images_changed.wait_for(lambda: self._applier or self._is_retired or not self._merging, timeout)
            if self._applier is None:
                cause = f"a substitute VM has the disks of {self.name}, or a merge failed"
                raise StateError("the images are closed", cause=cause, hint="rha status")
            return self._applier

    def disk_bytes(self, disk: int) -> int:
        """Size of a disk; 0 when there is no such disk."""
        return self._state.disks[disk].bytes if 0 <= disk < len(self._state.disks) else 0

    @property
    def journal_end(self) -> int:
        """Journal position behind everything taken so far."""
        return self._journal.end

    def wait_applied(self, position: int | None = None, timeout: float | None = None) -> bool:
        """Waits until the images hold everything below a journal position, by default everything durable; also while
        they are closed for a merge.

        Raises what the applier died of, StateError when a substitute VM has the images.
        """
        applier = self._await_open(timeout)
        return applier.wait_applied(self._journal.durable if position is None else position, timeout)

    # Report ---------------------------------------------------------------------------------------------------

    def heartbeat_age(self) -> float | None:
        """Seconds since the master was last heard; None when it never was since the appliance started."""
        heard = self._heard_at
        return None if heard is None else time.monotonic() - heard

    @property
    def last_heartbeat(self) -> Heartbeat | None:
        return self._heartbeat

    def failure(self) -> str | None:
        """What the applier or a merge died of, as a sentence."""
        failure = self._applier.failure if self._applier else None
        return str(failure).replace("\n", "; ") if failure else self._merge_failure

    def _consistency(self, why: str | None) -> str:
        if why is None:
            return "the images are a state of the master"
        return f"{why}; the point at LSN {self._guard.point.lsn} stays bootable" if self._guard else why

    def report(self) -> Report:
        """The scenario as the appliance sees it. Disks as the master last reported them."""
        with self._lock:
            scenario, beat = self.scenario, self._heartbeat
            why, failure = self.why_not_consistent(), self.failure()
            alarms = [f"applying failed: {failure}"] if failure else []
            return Report(
                role="appliance",
                scenario=self.name,
                mode=scenario.mode if scenario else "dr",
                time=time.time(),
                health="alarm" if failure else "warning" if why or not self.is_connected else "ok",
                state="failed" if failure else "inconsistent" if why else "consistent",
                why=failure or self._consistency(why),
                disks=beat.report.disks if beat and beat.report else [],
                lag_bytes=self.spool_bytes(),
                lag_seconds=None,
                consistent=self.point(),
                peer=self.peer,
                connected=self.is_connected,
                alarms=alarms,
            )
