"""One scenario on the appliance: its journal, its images, and how far each of them is.

Folder of a scenario, below the store:

    scenario.json    as the master last sent it        stream.json      what the stream said up to the images' state
    journal/         the durable stream                checkpoint.json  where redo begins
    images/DISK.qcow2                                  run/             sockets of the storage daemon
    guard.json       a consistent point is kept below overlays (guard.py)
    undo/            old content, for points (undo.py)  changes.json     when the images were consistent, and when not
    bookmarks.json   points with names                  points/          overlays of the points that are open
    kept/            what discarded substitutes wrote (kept.py)
    unsent.json      free space that syncs left out (unsent.py)

The journal side is intake.py, the image side images.py. Threads: `welcome`, `take` and `commit` belong to the one
connection that holds the scenario; the applier has its own; everything else may be called from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rha.appliance import catalog
from rha.appliance.config import Config
from rha.appliance.images import Images
from rha.appliance.intake import SPOOL_BYTES, Intake
from rha.appliance.pointkeeper import PointKeeper
from rha.appliance.points import Place
from rha.appliance.window import Limits, free_bytes
from rha.errors import RhaError, StateError, StorageError
from rha.image.storage_daemon import ImageSpec
from rha.journal.keys import read_keyring
from rha.journal.segment import Journal
from rha.report import Point, Report
from rha.scenario import Scenario
from rha.units import show_bytes, show_seconds
from rha.wire.frames import Header
from rha.wire.messages import Heartbeat, Hello, Welcome

_POLL_SECONDS = 0.02
STUCK_SECONDS = 5.0


class Replica:
    """Raises StorageError when something on disk is damaged or in use, ConfigError when a key is missing."""

    def __init__(self, folder: Path, config: Config, *, retired: bool = False) -> None:
        """`retired`: a substitute VM has the images; they stay closed until `restore_images`."""
        self.folder, self.name = folder, folder.name
        catalog.make_folder(folder)
        self._lock = threading.RLock()
        self._reserve = int(config.reserve)
        self.is_connected = False
        self.peer = ""
        self.on_leave: list[Callable[[str], None]] = []  # told why, before the images are given up or closed
        with contextlib.ExitStack() as on_failure:
            self._open(config, retired, on_failure)
            on_failure.pop_all()

    def _open(self, config: Config, retired: bool, on_failure: contextlib.ExitStack) -> None:
        """What was opened when something cannot be is let go of again: it is tried anew with the next connection, and
        must not meet its own locks."""
        keys = read_keyring(config.journal_key, config.journal_old_keys)
        self._journal = Journal.open(self.folder / "journal", keys=keys)
        on_failure.callback(self._journal.close)
        self._images = Images(self.folder, config, self._journal, self._lock, keys)
        on_failure.callback(self._let_go_of_images)
        self._intake = Intake(self.folder, self._journal, self._images, self._lock, self.point)
        self.points = PointKeeper(self.folder, self._journal, self._images)
        if self._intake.state.disks:
            self._intake.refold(self._images.applied)
            self._images.resume(retired=retired)

    def _let_go_of_images(self) -> None:
        with contextlib.suppress(RhaError):  # the failure to open them is what is told
            self._images.end()

    def close(self) -> None:
        """Everything stopped and on disk. Raises StorageError when the images could not be closed well."""
        self._tell("the appliance closes the scenario")
        try:
            self.points.close_all()
            self._images.end()
        finally:
            self._journal.close()

    # The connection -------------------------------------------------------------------------------------------

    def welcome(self, hello: Hello, raw: bytes, host: str) -> Welcome:
        """Answers a master whose certificate was checked. `raw`: the whole HELLO frame, journalled when a new
        generation begins.

        Raises NetworkError, StateError or StorageError when this stream cannot be taken.
        """
        return self._intake.welcome(hello, raw, host)

    def take(self, header: Header, payload: memoryview) -> None:
        """One checked frame of the stream: appended to the journal, or heard.

        Raises BadFrame when it cannot stand here, StorageError when the journal cannot take it.
        """
        self._intake.take(header, payload)

    def commit(self) -> int:
        """Makes durable what was taken, lets the applier go on. Returns the durable LSN. Raises StorageError."""
        return self._intake.commit()

    def expect(self, *, somebody: bool) -> None:
        """Whether somebody still waits for what `welcome` and `take` wait for: the images of a long spool. What a disk
        does not answer is waited for all the same."""
        if somebody:
            self._intake.abandoned.clear()
        else:
            self._intake.abandoned.set()

    def why_stuck(self) -> str | None:
        """A sentence when the journal's disk has not answered for long, else None."""
        seconds = self._journal.stuck_seconds
        if seconds < STUCK_SECONDS:
            return None
        return f"the disk of {self.folder / 'journal'} has not answered for {show_seconds(seconds)}"

    def heard(self) -> None:
        """Something came from the master. A frame of many bytes may be long under way: it is no silence."""
        self._intake.heard_at = time.monotonic()

    def spool_full(self) -> bool:
        """True while the receiver should wait: for the applier, or for room on the store's disk."""
        return self.spool_bytes() > SPOOL_BYTES or self._free() < self._reserve // 2

    def _free(self) -> int:
        return free_bytes(self.folder)

    def tend(self) -> None:
        """What is to be done beside the stream, now and then: end a guard, replace a failed applier."""
        self._images.tend(self._intake.state, self._intake.sync_ended)

    # Handing the images to a substitute ------------------------------------------------------------------------

    def retire(self) -> None:
        """Receives no more; a merge that runs is waited for, and so is whoever uses a point in a test."""
        self._images.retire()
        self._tell("a substitute is to take over")

    def _tell(self, why: str) -> None:
        for leave in self.on_leave:
            leave(why)

    @property
    def is_retired(self) -> bool:
        """Are the images a substitute's, or about to be?"""
        return self._images.is_retired

    def apply_spool(self, timeout: float) -> bool:
        """Applies everything received, whether images are open or not yet. False when the time (seconds) is over.
        Raises StorageError."""
        # What a broken connection left taken and not synced: applied later, it would come below what a substitute has
        # written meanwhile.
        self.commit()
        return self._images.apply_all(timeout)

    def give_up_images(self, at: Place | None = None) -> list[ImageSpec]:
        """Closes the images for a substitute. Returns those that show `point()`, in the order of the disks: in the
        middle of a sync the guarded ones, and the half of a sync is dropped. `at`: those that show an earlier point.

        Raises StorageError.
        """
        if at is not None:
            return self._images.give_up_at(at)
        specs, stale = self._images.give_up(self._intake.state.lsn)
        if stale:
            self._intake.state = stale
        return specs

    def reopen_images(self) -> None:
        """The substitute is off: opens the images for what its overlays hold. What was received since they were given
        up is not applied to them any more. Raises StorageError."""
        self.commit()
        if stale := self._images.reopen(self._intake.state.lsn):
            self._intake.state = stale

    def image_paths(self) -> list[Path]:
        """What is written to, in the order of the disks."""
        return [spec.path for spec in self._images.specs()]

    def begin_return(self) -> int:
        """As Intake.begin_return; the data follows by `take`, as if the master sent it."""
        return self._intake.begin_return()

    def end_return(self, moment: float, by: str) -> None:
        """As Intake.end_return; then the images are that, and no older point guards them any more: the master's next
        sync must guard this one. Raises StorageError."""
        self._intake.end_return(moment, by)
        self.wait_applied()
        self._images.merge_now(self._intake.state, self._intake.sync_ended)

    def restore_images(self) -> None:
        """The substitute is gone: receives again. Raises StorageError."""
        self._images.restore()

    def why_no_point_after_spool(self) -> str | None:
        """The reason why there will be no point to boot, even when everything durable is applied; None: there is
        one."""
        with self._lock:
            return None if self._images.guard else self._intake.state.why_not_consistent()

    # Going back ----------------------------------------------------------------------------------------------------

    def rewind(self, text: str, by: str) -> Place:
        """Takes the images themselves back to a point; returns it. When the journal holds that, it is done, whatever
        happens to this process; what the images were before is a point, too.

        Raises StateError while the master is connected or a substitute stands, and when there is no such point;
        StorageError when it cannot be applied.
        """
        if self._images.is_retired:
            raise StateError(f"a substitute VM has the images of {self.name}", hint=f"rha discard {self.name}")
        if self.is_connected:
            raise StateError(
                f"the master of {self.name} is connected",
                cause="it would at once bring the replica back to what its own disks are",
                hint="stop the engine on the master first; to look without changing anything: rha mount",
            )
        place = self.points.find(text)
        self.commit()
        self.wait_applied()
        self._check_rewind(place)
        self._intake.rewind(place, by)
        self.wait_applied()
        return place

    def _check_rewind(self, place: Place) -> None:
        """Raises StorageError when it could not be done: once it is journalled nothing can be applied before it is."""
        with contextlib.closing(self.points.view(place)) as view:
            view.check()
            needed = sum(length for disk in range(len(view.disk_bytes)) for _, length in view.changed(disk))
        if needed > self._free():
            raise StorageError(
                "there is no room for a rewind",
                cause=f"it overwrites up to {show_bytes(needed)}, which are kept; {show_bytes(self._free())} are free",
                hint=f"df -h {self.folder}; make room, or look without changing anything: rha mount",
            )

    # The images -----------------------------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario | None:
        """As the master last sent it; None before it was ever connected."""
        return self._intake.scenario

    @property
    def applied_lsn(self) -> int:
        return self._images.applied.lsn

    @property
    def limits(self) -> Limits:
        """Of its window, and of the store's disk."""
        return self._images.history.limits

    @property
    def durable_lsn(self) -> int:
        return self._intake.state.lsn

    @property
    def generation(self) -> str:
        """Whose LSNs the durable stream counts in; empty: nobody's, a sync was dropped or the disks were taken back."""
        return self._intake.state.generation

    def wait_durable(self, lsn: int, seconds: float) -> bool:
        """Until everything below an LSN is on stable storage. False when the time is over."""
        until = time.monotonic() + seconds
        end: int | None = None  # of the journal, once it holds that LSN
        while end is None or self._journal.durable < end:
            if end is None and self._intake.state.lsn >= lsn:
                end = self._journal.end
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def spool_bytes(self) -> int:
        """Durable and not yet applied."""
        return max(0, self._journal.durable - self._images.applied.position)

    def why_not_consistent(self) -> str | None:
        """The reason why the images are, as they stand, no state of the master; None when they are one."""
        return self._images.why_not_consistent()

    def point(self) -> Point | None:
        """The consistent point that can be booted now: the images as they are, else the guarded one; None when there is
        neither. Its time is the master's: every write submitted before it is in the images."""
        return self._images.point(self._intake.heartbeats())

    def read_image(self, disk: int, offset: int, length: int) -> bytearray:
        """Bytes of an image as it is now; waits while the images are closed for a merge.

        Raises BadFrame when the range is not on the disk, StateError when a substitute VM has the images.
        """
        return self._images.read(disk, offset, length)

    def read_image_into(self, disk: int, offset: int, buffer: memoryview) -> None:
        """The same into memory of the caller's."""
        self._images.read_into(disk, offset, buffer)

    def judge(self, disk: int, offset: int, unit: int, flags: bytes) -> bytes:
        """The flags of a comparison (rha/sync/blocks.py), where a difference in what a sync left out is told from
        others."""
        return self._intake.unsent.judge(disk, offset, unit, flags) if any(flags) else flags

    def disk_names(self) -> list[str]:
        return [disk.name for disk in self._intake.state.disks]

    def disk_bytes(self, disk: int) -> int:
        """Size of a disk; 0 when there is no such disk."""
        disks = self._intake.state.disks
        return disks[disk].bytes if 0 <= disk < len(disks) else 0

    @property
    def journal_end(self) -> int:
        """Journal position behind everything taken so far."""
        return self._journal.end

    def wait_applied(self, position: int | None = None, timeout: float | None = None) -> bool:
        """Waits until the images hold everything below a journal position, by default everything durable; also while
        they are closed for a merge.

        Raises what the applier died of, StateError when a substitute VM has the images.
        """
        return self._images.wait_applied(self._journal.durable if position is None else position, timeout)

    # Report ---------------------------------------------------------------------------------------------------

    def heartbeat_age(self) -> float | None:
        """Seconds since the master was last heard; None when it never was since the appliance started."""
        heard_at = self._intake.heard_at
        return None if heard_at is None else time.monotonic() - heard_at

    @property
    def last_heartbeat(self) -> Heartbeat | None:
        return self._intake.heartbeat

    def failure(self) -> str | None:
        """What the applier or a merge died of, as a sentence."""
        return self._images.failure()

    def _consistency(self, why: str | None) -> str:
        if why is None:
            state = self._images.applied_state
            if state.returned:
                return "the images are what the substitute left when the master took its service back"
            if state.is_rewound:
                return f"the images were taken back to LSN {state.shown_lsn}"
            return "the images are a state of the master"
        guard = self._images.guard
        return f"{why}; the point at LSN {guard.point.lsn} stays bootable" if guard else why

    def report(self) -> Report:
        """The scenario as the appliance sees it. Disks as the master last reported them."""
        with self._lock:
            scenario, beat = self.scenario, self.last_heartbeat
            why, failure = self.why_not_consistent(), self.failure()
            alarms = [f"applying failed, and is tried again: {failure}"] if failure else []
            alarms += [stuck] if (stuck := self.why_stuck()) else []
            alarms += [*self._images.history.alarms(self._free()), *self.points.alarms()]
            alarms += self.points.kept.alarms(self.points.window())
            return Report(
                role="appliance",
                scenario=self.name,
                mode=scenario.mode if scenario else "dr",
                time=time.time(),
                health="alarm" if failure else "warning" if alarms or why or not self.is_connected else "ok",
                state="failed" if failure else "inconsistent" if why else "consistent",
                why=failure or self._consistency(why),
                disks=beat.report.disks if beat and beat.report else [],
                lag_bytes=self.spool_bytes(),
                lag_seconds=None,
                consistent=self.point(),
                window=self.points.window(),
                kept=self.points.kept.reports(),
                peer=self.peer,
                connected=self.is_connected,
                alarms=alarms,
            )
