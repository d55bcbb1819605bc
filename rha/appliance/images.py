"""The image side of a replica: what the images show, what guards a consistent point, who has them.

The mechanism of opening and applying is in image_files.py, the overlays of a guard in guard.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from rha.appliance import catalog, guard
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.config import Config, limits_of
from rha.appliance.history import History
from rha.appliance.image_files import ImageFiles
from rha.appliance.places import Places
from rha.appliance.pointimage import remove_overlays, write_overlays
from rha.appliance.points import Place, place_of
from rha.appliance.pointview import PointView
from rha.appliance.rewinding import write_back
from rha.appliance.spans import Change, follow, trimmed
from rha.appliance.stream import Message, StreamState, decode, fold, rewound, state_at
from rha.errors import RhaError, StateError, StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec
from rha.journal.sealing import PLAIN_ONLY, Keyring
from rha.journal.segment import Entry, Journal
from rha.report import Point
from rha.units import show_bytes
from rha.wire.frames import BadFrame
from rha.wire.messages import Gap, Heartbeat, Hello, Mark, Rewind

MERGE_RETRY_SECONDS = 10.0


class Images:
    """Everything may be called from any thread. Raises StorageError when something on disk is damaged or in use."""

    def __init__(
        self, folder: Path, config: Config, journal: Journal, lock: threading.RLock, keys: Keyring = PLAIN_ONLY
    ) -> None:
        """Closed; `resume` opens them. `lock` is the replica's."""
        self.folder, self._journal, self._lock = folder, journal, lock
        self._places = Places(config, folder)
        self.applied_state = catalog.load_stream(folder)
        self._redo_until = self.applied_state.position  # below it the images may be behind the saved state
        self.history = History(folder / "undo", limits_of(config, folder.name), self._state_at, keys=keys)
        self._files = ImageFiles(
            folder,
            journal,
            lock,
            on_frame=self._on_applied_frame,
            history=self.history,
            before_open=lambda: self._places.prepare(self.applied_state.disks),
            after_open=lambda: self._places.opened(self.applied_state.disks),
            patience=lambda: self._places.patience(self.applied_state.disks),
        )
        self.changes: list[Change] = catalog.load(folder / "changes.json", list[Change]) or []
        self.guard: guard.Guard | None = None
        self._idle = threading.Condition(lock)  # announces changes of the fields below
        self._is_busy = False  # somebody closes and opens the images
        self._merge_failure: str | None = None
        self._merge_at = 0.0  # monotonic; no merge before it
        self.is_retired = False

    # Opening and closing --------------------------------------------------------------------------------------

    def resume(self, *, retired: bool) -> None:
        """After a start: opens the images, unless a substitute has them; those in Ceph beside, as a cluster may let an
        appliance with other scenarios wait, or not be there yet after a power cut: then `tend` tries again, and
        `failure` says why. Raises StorageError."""
        self.is_retired = retired
        self.guard = guard.load(self.folder, self.base_specs())
        self._open_history()
        if not retired:
            with self._lock:
                if is_beside := self._places.any_in_ceph(self.applied_state.disks):
                    self._beside("open", self.open)
            if not is_beside:
                self.open()

    def _open_history(self) -> None:
        self.history.open([disk.bytes for disk in self.applied_state.disks], self.applied)

    def base_specs(self) -> list[ImageSpec]:
        """The images in the order of the scenario's disks."""
        return [self._places.spec(disk.name) for disk in self.applied_state.disks]

    def first_state(self, state: StreamState) -> StreamState:
        """The state that a first greeting leads to: what a device of its own holds must be compared."""
        disks = tuple(
            msgspec.structs.replace(disk, phase="stale") if self._places.is_compared_first(disk.name) else disk
            for disk in state.disks
        )
        return msgspec.structs.replace(state, disks=disks)

    def specs(self) -> list[ImageSpec]:
        """What is written to: the images, or the overlays that guard them."""
        bases = self.base_specs()
        return [guard.overlay_of(spec) for spec in bases] if self.guard and not self.guard.on_base else bases

    def open(self, *, first: bool = False) -> None:
        """`first`: there are no images yet. Raises StorageError; of a target also as `Places.begin`."""
        catalog.make_folder(self.folder / "images")
        if first:
            self._places.begin(self.applied_state.disks)
        self._files.open(self.specs())

    def open_first(self, state: StreamState) -> None:
        """Creates the images. What cannot be made now is made at the next greeting: nothing is noted before.

        Raises StorageError.
        """
        before = self.applied_state
        self.applied_state = state
        try:
            self._open_history()
            self.open(first=True)
            catalog.save_stream(self.folder, state)
        except RhaError:
            self._files.close()
            self.applied_state = before
            raise

    def grow(self, sizes: Sequence[int]) -> None:
        """Makes what is written to as long as the master's disks are now. Raises StorageError, images as they were or
        longer."""
        with self._alone():
            self._files.close()
            try:
                for spec, size in zip(self.specs(), sizes, strict=True):
                    formats.grow(spec.path, size, spec.format)
            finally:
                self.open()

    def end(self) -> None:
        """Finishes the batch at hand, writes the checkpoint, lets go of the images for good.

        Raises StorageError when that did not go well.
        """
        with self._alone():
            self.is_retired = True
            try:
                self._files.close()
            finally:
                self._files.end()
                self.history.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Closing and opening belong to one thread at a time; the others wait here."""
        with self._idle:
            self._idle.wait_for(lambda: not self._is_busy)
            self._is_busy = True
        try:
            yield
        finally:
            self._now_idle()

    def _now_idle(self) -> None:
        with self._idle:
            self._is_busy = False
            self._idle.notify_all()
        self._files.notify()

    # Applying -------------------------------------------------------------------------------------------------

    def _on_applied_frame(self, entry: Entry) -> bool:
        """In the applier's thread, once everything before the frame is in the images."""
        if entry.position < self.applied_state.position:
            return False  # redone after a crash; the saved state knows it already
        message = decode(entry.header, entry.payload)
        if isinstance(message, Rewind):
            self._take_back(entry, message)
        # Saved without the lock: a report must not hang with a disk. While images are open nobody else changes these.
        state = fold(self.applied_state, entry.header, message, redo=True)
        changes = self._changed(entry, state)
        state = msgspec.structs.replace(state, position=entry.next_position)
        catalog.save_stream(self.folder, state)
        with self._lock:
            self.changes, self.applied_state = changes, state
        return isinstance(message, Rewind)

    def _take_back(self, entry: Entry, message: Rewind) -> None:
        """Makes the images what they were at a point; done again from the beginning after a crash."""
        state = rewound(self.applied_state, entry.header.lsn, message, "rewinding")
        state = msgspec.structs.replace(state, position=entry.position)
        catalog.save_stream(self.folder, state)
        with self._lock:
            self.applied_state = state
        place = place_of(message, self.history.intervals)
        view = PointView(self.history, self._journal, place, self)
        try:
            write_back(view, self._files.write_back)
        finally:
            view.close()
        self.history.begin_at_next()

    def _changed(self, entry: Entry, state: StreamState) -> list[Change]:
        """When the images were consistent, with what a frame changes; saved when it does."""
        changes = follow(self.changes, state, entry.header.lsn, entry.position, self.applied.time_ns / 1e9)
        intervals = self.history.intervals
        if intervals:
            changes = trimmed(changes, intervals[0].head.start.lsn)
        if changes != self.changes:
            catalog.save(self.folder / "changes.json", changes)
        return changes

    def _state_at(self, saved: Checkpoint) -> StreamState:
        with self._lock:
            return state_at(self.applied_state, saved.lsn)

    @property
    def applied(self) -> Checkpoint:
        """How far the images are (not always flushed)."""
        return self._files.applied

    def durable(self, position: int) -> None:
        """Lets the applier go on to here; never raises what it died of."""
        self._files.durable(position)

    def wait_applied(self, position: int, timeout: float | None = None) -> bool:
        """Waits for images that hold everything below a journal position; also while they are closed for a merge.

        Raises what the applier died of, StateError when a substitute VM has the images.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._await_open(timeout)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                return self._files.wait_applied(position, left)
            except StateError:  # closed meanwhile, for a merge perhaps: then there will be another applier
                if self.is_retired or self._files.failure():
                    raise

    def _await_open(self, timeout: float | None = None) -> None:
        if not self._files.wait_open(lambda: self.is_retired or not self._is_busy, timeout):
            cause = f"a substitute VM has the disks of {self.folder.name}, or a merge failed"
            raise StateError("the images are closed", cause=cause, hint="rha status")

    def apply_all(self, timeout: float) -> bool:
        """Applies everything durable, whether images are open or not yet; a failed applier is tried once more. False
        when the time (seconds) is over. Raises StorageError."""
        with self._alone():
            if self._files.failure():
                self._files.mend(self.specs())
            elif not self._files.is_open:
                self.open()
        return self.wait_applied(self._journal.durable, timeout)

    def read(self, disk: int, offset: int, length: int) -> bytearray:
        """`length` bytes of an image as `read_into`."""
        self._refuse_beyond(disk, offset, length)
        content = bytearray(length)
        self.read_into(disk, offset, memoryview(content))
        return content

    def read_into(self, disk: int, offset: int, buffer: memoryview) -> None:
        """Fills the buffer with bytes of an image as it is now; waits while the images are closed for a merge.

        Raises BadFrame when the range is not on the disk, StateError when a substitute VM has the images.
        """
        self._refuse_beyond(disk, offset, len(buffer))
        name, is_read = self.applied_state.disks[disk].name, False
        while not is_read:
            self._await_open()
            is_read = self._files.read_into(name, offset, buffer)

    def _refuse_beyond(self, disk: int, offset: int, length: int) -> None:
        disks = self.applied_state.disks
        if not 0 <= disk < len(disks) or offset + length > disks[disk].bytes:
            raise BadFrame("a range that the disk does not have", cause=f"{length} bytes at {offset} of disk {disk}")

    def used(self, disk: int, offset: int, length: int) -> list[tuple[int, int]]:
        """The parts of a range of an image that do not surely read as zeros; as `read`."""
        while True:
            self._await_open()
            if (found := self._files.used(self.applied_state.disks[disk].name, offset, length)) is not None:
                return found

    # What the images show -------------------------------------------------------------------------------------

    def why_not_consistent(self) -> str | None:
        """The reason why the images are, as they stand, no state of the master; None when they are one."""
        with self._lock:
            applied = self.applied
            if applied.position < max(self._redo_until, self._files.redo_end):
                return "what was not yet on stable storage before a crash is applied again"
            return self._state_at(applied).why_not_consistent()

    def point(self, heard: list[Heartbeat]) -> Point | None:
        """The consistent point that can be booted now: the images as they are, else the guarded one; None when there is
        neither. Its time is the master's: every write submitted before it is in the images. `heard`: heartbeats that
        the images may have passed since."""
        with self._lock:
            if self.why_not_consistent():
                return self.guard.point if self.guard else None
            if self.applied_state.is_rewound:
                return Point(lsn=self.applied.lsn, time=self.applied_state.shown_time)
            moment = self.applied.time_ns / 1e9
            for beat in heard:
                if self.applied.lsn >= beat.captured_lsn:
                    moment = max(moment, beat.time)
            return Point(lsn=self.applied.lsn, time=moment)

    def failure(self) -> str | None:
        """What the applier or a merge died of, as a sentence."""
        return self._files.failure() or self._merge_failure

    # Guarding the last consistent point -----------------------------------------------------------------------

    def is_guard_due(self, message: Message, durable: StreamState) -> bool:
        """Must the images be guarded before this frame is taken, since it may end their consistency?"""
        if not isinstance(message, Gap | Mark | Hello) or not durable.disks:
            return False
        with self._alone():  # a merge ends the guard, and then a new one is due
            pass
        if self.guard:
            return self.guard.on_base
        return durable.why_not_consistent() is None  # else the images show no point that could be kept

    def begin_guard(self, point: Point) -> None:
        """Closes the images, lays overlays over them, and goes on with these. Raises StorageError."""
        with self._alone():
            self._files.close()
            try:
                self.history.begin_now(self.applied)
                guarded = guard.Guard(point=point, position=self.applied.position)
                guard.begin(self.folder, self.base_specs(), guarded)
                with self._lock:
                    self.guard = guarded
            finally:
                self.open()

    def tend(self, durable: StreamState, sync_ended: int) -> None:
        """Beside the stream: replaces a failed applier when it is time; ends the guard once the images are consistent
        without it, come past the end of the sync (`sync_ended`: journal position). Cheap when there is nothing."""
        with self._lock:
            if self._is_busy or self.is_retired:
                return
            if self._files.is_mending_due():
                self._beside("mend", lambda: self._files.mend(self.specs()))
            elif self._is_guard_over(durable, sync_ended) and time.monotonic() >= self._merge_at:
                self._beside("merge", self._merge)

    def _is_guard_over(self, durable: StreamState, sync_ended: int) -> bool:
        if self.guard is None or self.guard.on_base or self._files.failure():
            return False
        # The images may be consistent still because they lag: they must have come past the end of the sync.
        applied = self.applied.position if self._files.is_open else 0
        return not (durable.why_not_consistent() or applied < sync_ended or self.why_not_consistent())

    def _beside(self, name: str, act: Callable[[], None]) -> None:
        """Does it alone, in a thread of its own. The lock is held."""
        self._is_busy = True

        def run() -> None:
            try:
                with contextlib.suppress(RhaError):  # kept: `failure` names it
                    act()
            finally:
                self._now_idle()

        threading.Thread(target=run, name=f"{name}-{self.folder.name}", daemon=True).start()

    def _merge(self) -> None:
        self._files.close()
        try:
            guard.merge(self.folder, self.base_specs())
            with self._lock:
                self.guard, self._merge_failure = None, None
        except RhaError as error:  # overlay and base together are consistent still, and go on
            self._merge_failure = str(error).replace("\n", "; ")
            self._merge_at = time.monotonic() + MERGE_RETRY_SECONDS
        self.open()

    def merge_now(self, durable: StreamState, sync_ended: int) -> None:
        """Ends a guard that `tend` would end, here and now. Raises StorageError when it cannot be ended."""
        with self._alone():
            if self._is_guard_over(durable, sync_ended):
                self._merge()
        if self.guard and not self.guard.on_base:
            raise StorageError(
                "the images cannot be merged with what guarded them",
                cause=self.failure() or "they are not consistent yet",
                hint=f"df -h {self.folder}",
            )

    # Handing the images to a substitute ------------------------------------------------------------------------

    def retire(self) -> None:
        """Opens no more by itself; a merge that runs is waited for."""
        with self._alone():
            self.is_retired = True

    def give_up(self, floor: int) -> tuple[list[ImageSpec], StreamState | None]:
        """Closes the images for a substitute. Returns those that show `point()`, in the order of the disks: in the
        middle of a sync the guarded ones, and the half of a sync is dropped; then also what the stream is from now on.
        `floor`: the LSN that the durable stream has come to. Raises StorageError."""
        with self._alone():
            self._files.close()  # without the lock: the applier may need it for its last frame
            stale = None
            with self._lock:
                if self.guard and not self.guard.on_base and self.why_not_consistent():
                    stale = self._declare_stale(floor)
                    self.history.take_back(self.guard.position, self.applied)
                    self.guard = guard.drop(self.folder, self.base_specs(), self.guard)
            return self.specs(), stale

    def give_up_at(self, place: Place) -> list[ImageSpec]:
        """Closes the images for a substitute that is to show an earlier point: overlays on them hold what differs. The
        images stay as they are. Raises StorageError."""
        view = PointView(self.history, self._journal, place, self)
        try:
            with self._alone():
                self._files.close()
                return write_overlays(view, self.specs(), self.folder / "run")
        finally:
            view.close()

    def _declare_stale(self, floor: int) -> StreamState:
        """The images are not where the journal is any more: whatever the master says next, they must be compared."""
        state, reached = self._stale_state(floor), self._stale_end(floor)
        why, time_ = "the half of a sync was dropped for a failover", self.applied.time_ns / 1e9
        return self._declare(state, reached, Change(position=reached.position, lsn=floor, time=time_, why=why))

    def _stale_state(self, floor: int) -> StreamState:
        disks = tuple(msgspec.structs.replace(disk, phase="stale", why="") for disk in self.applied_state.disks)
        return StreamState(floor=floor, position=self._journal.durable, disks=disks)

    def _stale_end(self, floor: int) -> Checkpoint:
        return Checkpoint(position=self._journal.durable, lsn=floor, time_ns=self.applied.time_ns)

    def _declare(self, state: StreamState, reached: Checkpoint, change: Change) -> StreamState:
        """Closed images count as what is reached now, with nothing applied; people are told of the change."""
        self.applied_state = state
        catalog.save_stream(self.folder, state)
        if self.changes and not self.changes[-1].why:
            self.changes.append(change)
            catalog.save(self.folder / "changes.json", self.changes)
        self._files.declare(reached)
        return state

    def reopen(self, floor: int) -> StreamState | None:
        """Opens the images again while a substitute's overlays still lie on them, closed: what these hold is then
        taken in, which changes nothing that can be read through them.

        What was received and not applied until then is left out: a master that has handed over writes on for a while,
        and none of that is below what the substitute has. Returns then what the stream is from now on. `floor`: the LSN
        that it has come to. Raises StorageError.
        """
        with self._alone():
            self.is_retired, stale = False, None
            if not self._files.is_open and self.applied_state.disks:
                # Else it is an adoption that was cut off, and what is not applied is its own.
                is_masters = self.applied_state.why_not_consistent() is None
                if is_masters and self.applied.position < self._journal.durable:
                    stale = self._leave_out(floor)
                self.open()
            return stale

    def _leave_out(self, floor: int) -> StreamState:
        with self._lock:
            before, reached = self.applied, self._stale_end(floor)
            state = self._stale_state(floor)
            self.history.leave_out(before.position, reached, state)  # first: no point may ever follow what is left out
            left_out = show_bytes(reached.position - before.position)
            why = f"{left_out} of stream, which the master wrote after it had handed over, were left out"
            # At the place where it begins: at its end stands the mark of what is taken in next, which replaces others.
            begun = Change(position=before.position, lsn=before.lsn + 8, time=before.time_ns / 1e9, why=why)
            return self._declare(state, reached, begun)

    def restore(self) -> None:
        """The substitute is gone. Raises StorageError."""
        with self._alone():
            self.is_retired = False
            remove_overlays(self.specs())
            if not self._files.is_open and self.applied_state.disks:
                self.open()
