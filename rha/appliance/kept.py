"""What substitutes wrote before they were discarded, kept aside: `kept/NAME/` in the scenario's folder, overlays and
`kept.json`.

An overlay alone is no disk: what it does not hold lies in the point that the substitute was made from. So that point is
held in the window until the set is dropped, and nothing is copied: keeping is one rename, whatever the overlays hold.
Rejected: taking the overlays into the images as a switchback does, and rewinding (all of it is written twice, every
disk compared with the master once more, and it goes with the window after a day); a copy of the whole disk (its time
and space, while nothing is received).

The folder of the overlays gets `kept.json` while they lie where the substitute left them; then it is renamed. Until
that they are the substitute's, behind it they are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.appliance.images import Images
from rha.appliance.points import Place
from rha.durable import sync_file, sync_folder
from rha.errors import RhaError, StateError, StorageError
from rha.image.storage_daemon import ImageSpec
from rha.report import KeptReport, Point, Window
from rha.scenario import Name
from rha.switch.split import Evidence

FILE = "kept.json"
_DROPPED = ".dropped"


class KeptSet(msgspec.Struct, kw_only=True, frozen=True):
    """The file. `lsn`, `time`: of the point below the overlays; `start`: the journal position at which its interval
    begins. `decided`: names the switch whose substitute wrote this. `evidence`: of both sides when it was discarded."""

    name: str
    lsn: int
    time: float
    start: int
    disks: list[Name]
    created: float
    by: str = ""
    reason: str = ""
    decided: float = 0.0
    evidence: Evidence | None = None


class Listed(msgspec.Struct, kw_only=True):
    """For people. `bytes`: of its files; `held_bytes`: undo and journal back to its point; `why_lost`: it cannot be
    read, for this reason; empty: it can."""

    name: str
    lsn: int
    time: float
    disks: list[str]
    created: float
    by: str
    reason: str
    bytes: int
    held_bytes: int = 0
    why_lost: str = ""


class Kept:
    """All sets of one scenario. Everything may be called from any thread; changes are the warden's and a person's."""

    def __init__(self, folder: Path, images: Images, find: Callable[[str], Place]) -> None:
        """`folder`: the scenario's; `find`: as PointKeeper.find."""
        self.folder, self._images, self._find = folder / "kept", images, find
        self._sets: dict[str, KeptSet] = {}
        self.broken: dict[str, str] = {}  # by folder: why its file cannot be read
        for place in sorted(self.folder.iterdir()) if self.folder.exists() else []:
            self._recall(place)
        self._hold()

    def _hold(self, *more: int) -> None:
        self._images.history.hold({*(one.start for one in self.sets), *more})

    def _recall(self, place: Path) -> None:
        if place.name.endswith(_DROPPED):
            shutil.rmtree(place, ignore_errors=True)
            return
        try:
            found = catalog.load(place / FILE, KeptSet)
            if found is None:
                raise StorageError(f"{place / FILE} is missing")
            self._sets[place.name] = found
        except RhaError as error:
            self.broken[place.name] = str(error).replace("\n", "; ")

    @property
    def sets(self) -> list[KeptSet]:
        """Oldest first."""
        return sorted(dict(self._sets).values(), key=lambda one: one.created)

    def get(self, name: str) -> KeptSet | None:
        return self._sets.get(name)

    def of(self, decided: float) -> KeptSet | None:
        """That of a switch; None: what its substitute wrote is not kept."""
        return next((one for one in self.sets if one.decided == decided), None)

    def overlays(self, one: KeptSet) -> list[ImageSpec]:
        """In the order of the disks."""
        return [ImageSpec(disk, self.folder / one.name / f"{disk}.qcow2", "qcow2") for disk in one.disks]

    def bytes(self, one: KeptSet) -> int:
        """On the store's disk."""
        return sum(spec.path.stat().st_blocks * 512 for spec in self.overlays(one) if spec.path.exists())

    def check_name(self, name: str) -> None:
        """Raises StateError when something is kept under this name."""
        if name in self._sets or name in self.broken:
            raise StateError(f"the name {name} is taken", cause="what a substitute wrote is kept under it")

    # Keeping and dropping -------------------------------------------------------------------------------------

    def why_not(self, point: Point | None) -> RhaError | None:
        """The reason why overlays over a point could not be read later."""
        if point is None:
            return StateError("the substitute was started from images that were no point (forced)")
        try:
            place = self._find(str(point.lsn))
        except RhaError as error:
            return error
        return None if place.lsn == point.lsn else StateError(f"LSN {point.lsn} is no point of the window")

    def take(self, overlays: Path, one: KeptSet) -> None:
        """The folder of a substitute's overlays becomes a set, durably, and the point below it is held. Nobody has them
        open. Raises StateError when the name is taken or the point is gone, StorageError; then they are where they
        were."""
        self.check_name(one.name)
        one = msgspec.structs.replace(one, start=self._find(str(one.lsn)).interval.head.start.position)
        self._hold(one.start)
        try:
            self._move(overlays, one)
            self._sets[one.name] = one
        finally:
            self._hold()

    def _move(self, overlays: Path, one: KeptSet) -> None:
        catalog.make_folder(self.folder)
        catalog.save(overlays / FILE, one)
        try:
            for disk in one.disks:
                sync_file(overlays / f"{disk}.qcow2")
            overlays.rename(self.folder / one.name)
            for folder in (self.folder, self.folder.parent):
                sync_folder(folder)
        except OSError as error:
            (overlays / FILE).unlink(missing_ok=True)
            cause = error.strerror or str(error)
            raise StorageError(f"{overlays} cannot be kept", cause=cause, hint=f"ls -la {self.folder}") from error

    def drop(self, name: str) -> int:
        """Removes a set, for good; returns the bytes it took. Raises StateError when there is none, StorageError."""
        one = self.get(name)
        if one is None:
            known = ", ".join(self._sets) or "nothing"
            raise StateError(
                f"nothing is kept as {name}", cause=f"kept are: {known}", hint=f"rha kept {self.folder.parent.name}"
            )
        freed, place = self.bytes(one), self.folder / name
        try:
            gone = place.with_name(name + _DROPPED)
            place.rename(gone)  # at once: a half removed set must not look like one
            del self._sets[name]
            self._hold()
            shutil.rmtree(gone)
        except OSError as error:
            raise StorageError(f"{place} cannot be removed", cause=str(error), hint=f"ls -la {place.parent}") from error
        return freed

    # For people -----------------------------------------------------------------------------------------------

    def listed(self) -> list[Listed]:
        """Oldest first."""
        history, applied = self._images.history, self._images.applied
        held = {interval.head.start.position for interval in history.intervals}
        return [
            Listed(
                name=one.name,
                lsn=one.lsn,
                time=one.time,
                disks=list(one.disks),
                created=one.created,
                by=one.by,
                reason=one.reason,
                bytes=self.bytes(one),
                held_bytes=history.size_from(one.start) + applied.position - one.start if one.start in held else 0,
                why_lost="" if one.start in held else "the point below it was lost with its undo",
            )
            for one in self.sets
        ]

    def reports(self) -> list[KeptReport]:
        """For the scenario's report."""
        names = KeptReport.__struct_fields__
        return [KeptReport(**{name: getattr(one, name) for name in names}) for one in self.listed()]

    def alarms(self, window: Window | None) -> list[str]:
        """What a person should know before it hurts. `window`: the scenario's."""
        found = [f"what a substitute wrote, {folder}: {why}" for folder, why in self.broken.items()]
        found += [f"what a substitute wrote, {one.name}: {one.why_lost}" for one in self.listed() if one.why_lost]
        if window and self._images.history.held_start is not None and window.bytes > window.most_bytes:
            names, scenario = ", ".join(one.name for one in self.sets), self.folder.parent.name
            found.append(f"more points than window_bytes are held for {names}: rha kept {scenario} --drop NAME")
        return found
