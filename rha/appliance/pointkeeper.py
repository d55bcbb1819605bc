"""The points of one scenario as people use them: listed, named, opened, closed.

In the scenario's folder: `bookmarks.json`, and `points/NAME/` for each open point: an overlay per disk (qcow2) on the
point, which this process serves (NBD). Writing goes to the overlays; replica and point stay as they are.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rha.appliance import catalog, points
from rha.appliance.images import Images
from rha.appliance.kept import Kept, Listed
from rha.appliance.keptview import KeptView
from rha.appliance.mounting import Mounted, RawFiles, sweep, why_hidden
from rha.appliance.points import Bookmark, Place, Wanted
from rha.appliance.pointview import PointView
from rha.appliance.spans import Span, spans
from rha.errors import HostError, RhaError, StateError, StorageError
from rha.image import formats
from rha.image.nbd_server import NbdServer
from rha.image.storage_daemon import ImageSpec
from rha.journal.segment import Journal
from rha.report import Point, Window
from rha.units import show_bytes


class Listing(msgspec.Struct, kw_only=True):
    """What `rha points` shows. `bytes`: undo and journal kept; `cut_why`: why the window is shorter than wanted;
    `lost_why`: why it began anew."""

    scenario: str
    spans: list[Span]
    bookmarks: list[Bookmark]
    open: list[Opened]
    kept: list[Listed]
    newest_lsn: int
    newest_time: float
    intervals: int
    bytes: int
    window_seconds: float
    window_bytes: int
    cut_why: str = ""
    lost_why: str = ""


class Opened(msgspec.Struct, kw_only=True):
    """An open point. `socket`: NBD, an export for each disk; `overlays`: by disk; `mounts`: directories. `kept`: the
    name of what a substitute wrote behind it, which is shown with it; empty: it is the point alone. `why_lost`: why it
    cannot be read any more, and is best closed; empty: it can."""

    name: str
    lsn: int
    time: float
    since: float
    socket: str
    overlays: dict[str, str]
    mounts: list[str] = []
    kept: str = ""
    why_lost: str = ""


View = PointView | KeptView


class _Disk:
    """One disk of a view, as an NBD export."""

    def __init__(self, view: View, disk: int) -> None:
        self._view, self._disk = view, disk
        self.bytes = view.disk_bytes[disk]

    def read(self, offset: int, length: int) -> memoryview:
        return self._view.read(self._disk, offset, length)

    def status(self, offset: int, length: int) -> list[tuple[int, bool]]:
        return self._view.status(self._disk, offset, length)


class OpenPoint:
    """A point that is served, with its overlays, until `close`."""

    def __init__(self, folder: Path, name: str, view: View, disks: Sequence[str], kept: str = "") -> None:
        """Raises StorageError; then nothing is left."""
        self.name, self.view, self.folder, self.disks = name, view, folder, list(disks)
        self.kept, self.since = kept, time.time()
        self._shown: RawFiles | None = None
        catalog.make_folder(folder)
        self._server = NbdServer(folder / "nbd.sock", {disk: _Disk(view, n) for n, disk in enumerate(disks)})
        try:
            try:
                self._server.start()
            except OSError as error:
                cause = f"{self._server.path}: {error.strerror or error}"
                raise StorageError("a point cannot be served", cause=cause, hint=f"df -h {folder}") from error
            for spec in self.overlays():
                formats.overlay_on_nbd(spec.path, self._server.path, spec.name)
        except BaseException:
            self.close()
            raise

    def overlays(self) -> list[ImageSpec]:
        return [ImageSpec(disk, self.folder / f"{disk}.qcow2", "qcow2") for disk in self.disks]

    def describe(self) -> Opened:
        place = self.view.place
        return Opened(
            name=self.name,
            lsn=place.lsn,
            time=place.time,
            since=self.since,
            socket=str(self._server.path),
            overlays={spec.name: str(spec.path) for spec in self.overlays()},
            mounts=self._shown.directories if self._shown else [],
            kept=self.kept,
            why_lost=self.view.why_lost,
        )

    def mount(self, target: Path) -> None:
        """Mounts its file systems (`mounting.Mounted`). Raises StateError, HostError, StorageError."""
        self._must_not_be_shown()
        self._shown = Mounted(self.folder, self.overlays(), target)

    def show_files(self) -> list[tuple[Path, Path]]:
        """Each disk as a raw file, to be read, and a qcow2 overlay on it, to be written to. Raises StateError,
        HostError, StorageError.

        Nothing is written through the raw files: QEMU before 10.1 mixes up writes that come to a FUSE export at once.
        """
        self._must_not_be_shown()
        if why := why_hidden():
            hint = "systemctl cat rha-appliance: no ProtectSystem, ProtectKernelModules, PrivateTmp and the like"
            raise HostError("a VM would not see the point's disks", cause=why, hint=hint)
        self._shown = RawFiles(self.folder, self.overlays())
        top = self.folder / "boot"
        top.mkdir(mode=0o700)
        for name, file in self._shown.files.items():
            formats.overlay(top / f"{name}.qcow2", file, "raw")
        return [(file, top / f"{name}.qcow2") for name, file in self._shown.files.items()]

    def _must_not_be_shown(self) -> None:
        if self._shown:
            where = ", ".join(self._shown.directories) or "a test boots from it"
            raise StateError(f"point {self.name} is in use already", cause=where, hint="rha points")

    def close(self) -> None:
        """The overlays and what was written to them are removed.

        Raises StorageError when a file system of it is in use; then it stays open.
        """
        if self._shown:
            self._shown.close()
            self._shown = None
        self._server.stop()
        self.view.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class PointKeeper:
    """Everything may be called from any thread."""

    def __init__(self, folder: Path, journal: Journal, images: Images) -> None:
        self._folder, self._journal, self._images = folder, journal, images
        sweep(folder / "points")
        shutil.rmtree(folder / "points", ignore_errors=True)  # of an appliance that was killed
        self._lock = threading.Lock()
        self._open: dict[str, OpenPoint] = {}
        self._bookmarks = catalog.load(folder / "bookmarks.json", list[Bookmark]) or []
        self.kept, self._runs = Kept(folder, images, self.find), itertools.count()

    def find(self, text: str) -> Place:
        """The point that a person means (`points.parse`). Raises StateError, StorageError."""
        if self.kept.get(text):
            raise StateError(
                f"{text} is no point of the master's",
                cause="a substitute wrote it",
                hint=f"rha mount, restore, export and test take it; rha kept {self._folder.name}",
            )
        now = time.time()
        wanted = points.parse(text, self._bookmarks, now)
        return points.find(self._images.history.intervals, self._journal, wanted, now=now)

    def before(self, point: Point, seconds: float) -> Place | None:
        """The newest bookmark of the `seconds` before a point, else the place so long before it; None: there is none
        in the window. Raises StorageError."""
        marks = [one for one in self._bookmarks if point.time - seconds <= one.time and one.lsn < point.lsn]
        wanted = [Wanted(lsn=max(one.lsn for one in marks))] if marks else []
        for each in [*wanted, Wanted(time=point.time - seconds)]:
            try:
                place = points.find(self._images.history.intervals, self._journal, each, now=time.time())
            except StateError:
                continue
            if place.lsn < point.lsn:
                return place
        return None

    def list(self) -> Listing:
        history, applied = self._images.history, self._images.applied
        intervals = history.intervals
        first = intervals[0].head.start if intervals else applied
        return Listing(
            scenario=self._folder.name,
            spans=spans(self._images.changes, first.lsn, first.time_ns / 1e9) if intervals else [],
            bookmarks=[bookmark for bookmark in self._bookmarks if intervals and bookmark.lsn >= first.lsn],
            open=[point.describe() for point in self._open.values()],
            kept=self.kept.listed(),
            newest_lsn=applied.lsn,
            newest_time=applied.time_ns / 1e9,
            intervals=len(intervals),
            bytes=history.size() + applied.position - first.position,
            window_seconds=history.limits.seconds,
            window_bytes=history.limits.bytes,
            cut_why=history.cut_why,
            lost_why=history.lost_why,
        )

    def window(self) -> Window | None:
        """The points in short; None when there are none."""
        history, applied = self._images.history, self._images.applied
        intervals = history.intervals
        if not intervals:
            return None
        first = intervals[0].head.start
        return Window(
            oldest=Point(lsn=first.lsn, time=first.time_ns / 1e9),
            bytes=history.size() + applied.position - first.position,
            most_bytes=history.limits.bytes,
            wanted_seconds=history.limits.seconds,
        )

    def bookmark(self, name: str, at: str, by: str) -> Bookmark:
        """Names a point. Raises StateError when there is no such point, or the name is taken."""
        place = self.find(at)
        return self.add(Bookmark(name=name, lsn=place.lsn, time=place.time, created=time.time(), by=by))

    def check_name(self, name: str) -> None:
        """Raises StateError when a bookmark of this name would be refused now."""
        self.kept.check_name(name)
        points.check_name(name, self._bookmarks)

    def add(self, bookmark: Bookmark) -> Bookmark:
        """Raises StateError when its name is taken or cannot be one, StorageError."""
        with self._lock:
            self.kept.check_name(bookmark.name)
            points.check_name(bookmark.name, self._bookmarks)
            self._save([*self._bookmarks, bookmark])
        return bookmark

    def drop_bookmark(self, name: str) -> None:
        """Raises StateError when there is none of that name."""
        with self._lock:
            left = [bookmark for bookmark in self._bookmarks if bookmark.name != name]
            if len(left) == len(self._bookmarks):
                raise StateError(f"there is no bookmark {name}", hint=f"rha points {self._folder.name}")
            self._save(left)

    def _save(self, bookmarks: Sequence[Bookmark]) -> None:
        catalog.save(self._folder / "bookmarks.json", bookmarks)
        self._bookmarks = [*bookmarks]

    def drop_kept(self, name: str) -> int:
        """Removes what is kept of a substitute, for good; returns the bytes that it took. Raises StateError when it is
        open, or not there, StorageError."""
        with self._lock:
            used = [point.name for point in self._open.values() if point.kept == name]
            if used:
                raise StateError(f"{name} is open", cause=f"open point {', '.join(used)}", hint="rha points")
            return self.kept.drop(name)

    def view(self, place: Place) -> PointView:
        """The caller closes it. Raises StorageError."""
        return PointView(self._images.history, self._journal, place, self._images)

    def open(self, text: str) -> OpenPoint:
        """Opens a point, or what is kept of a substitute, under a name of its own. Raises StateError, StorageError."""
        view, kept = self._shown(text)
        with self._lock:
            number = 1 + max((int(name) for name in self._open), default=0)
            disks = [disk.name for disk in self._images.applied_state.disks]
            try:
                point = OpenPoint(self._folder / "points" / str(number), str(number), view, disks, kept)
            except BaseException:
                view.close()
                raise
            self._open[point.name] = point
        return point

    def _shown(self, text: str) -> tuple[View, str]:
        """What a person wants to see, and the name of it if it is kept."""
        one = self.kept.get(text)
        if one is None:
            return self.view(self.find(text)), ""
        point = self.view(self.find(str(one.lsn)))
        try:
            run = self._folder / "run" / f"kept-{next(self._runs)}"
            return KeptView(point, self.kept.overlays(one), run, one.time), one.name
        except BaseException:
            point.close()
            raise

    def opened(self, name: str) -> OpenPoint:
        """Raises StateError when no such point is open."""
        with self._lock:
            if name not in self._open:
                known = ", ".join(self._open) or "none"
                raise StateError(f"no point {name} is open", cause=f"open are: {known}", hint="rha points")
            return self._open[name]

    def close(self, name: str) -> None:
        """Raises StateError when no such point is open."""
        self.opened(name).close()
        with self._lock:
            self._open.pop(name, None)

    def alarms(self) -> Sequence[str]:
        """What a person who looks at a point should know."""
        found = []
        for point in [*self._open.values()]:
            if why := point.view.why_lost:
                found.append(f"open point {point.name} cannot be read any more: {why}")
            elif held := point.view.removed_bytes():
                found.append(
                    f"open point {point.name} holds {show_bytes(held)} that have left the window: close it soon"
                )
        return found

    def close_all(self) -> None:
        """Whoever still uses a mounted file system sees it vanish."""
        for point in list(self._open.values()):
            with contextlib.suppress(RhaError):
                point.close()
        sweep(self._folder / "points")
        self._open.clear()


def answer(value: Any) -> Any:
    """A struct as plain JSON values."""
    return msgspec.to_builtins(value)
