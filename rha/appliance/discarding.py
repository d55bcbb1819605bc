"""Ends a substitute, and keeps what it wrote: nothing is discarded without a person's word for it.

`discard.json` in the scenario's folder stands from the order to its end: a substitute that is half gone after a
`kill -9` must not be called serving, so the appliance goes on by itself. A failure ends the order; a person repeats it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from rha.appliance import catalog
from rha.appliance.kept import FILE as KEPT_FILE
from rha.appliance.kept import KeptSet
from rha.appliance.parted import Parted
from rha.appliance.replica import Replica
from rha.appliance.window import free_bytes
from rha.errors import RhaError, StateError, StorageError
from rha.switch.failover import discard_substitute
from rha.switch.progress import Progress
from rha.switch.steps import OVERLAYS
from rha.switch.ways import kept_name
from rha.units import show_bytes
from rha.vm.base import VmHost

FILE = "discard.json"


class Ordered(msgspec.Struct, kw_only=True, frozen=True):
    """The file: of which switch the substitute is to go, who wants it, why, and whether what it wrote is kept."""

    decided: float
    keep: bool
    by: str
    reason: str


class Discarding:
    """One scenario's. `release`: as for `discard_substitute`."""

    def __init__(
        self,
        replica: Replica,
        vm: VmHost,
        parted: Parted,
        *,
        release: Callable[[], object],
        say: Callable[[str], None],
    ) -> None:
        self._replica, self._vm, self._parted = replica, vm, parted
        self._release, self._say = release, say
        self._file = replica.folder / FILE
        self._at_work = threading.Lock()

    def cut_off(self, past: Progress) -> Ordered | None:
        """What was ordered for this substitute and has not come to its end; None: nothing, or it is at work. Raises
        StorageError."""
        order = None if self._at_work.locked() else catalog.load(self._file, Ordered)
        return order if order and order.decided == past.trigger.decided else None

    def run(self, past: Progress, *, keep: bool, person: str, reason: str) -> str:
        """Returns what became of what the substitute wrote. May be repeated.

        Raises StateError or StorageError, with nothing changed, when it cannot be kept; and as `discard_substitute`.
        """
        kept = self._replica.points.kept.of(past.trigger.decided)
        if keep and kept is None and (error := self._why_not_keep(past)):
            raise error
        said = [f"what it wrote was kept as {kept.name}" if kept else "what it wrote is removed"]

        def aside(past: Progress) -> None:
            if kept is None and keep:
                said[0] = self._keep(past, person, reason)

        order = Ordered(decided=past.trigger.decided, keep=keep, by=person, reason=reason)
        folder, name = self._replica.folder, self._replica.name
        with self._at_work, self._standing(order):
            discard_substitute(folder, self._vm, name, keep=aside, release=self._release, say=self._say)
            self._parted.forget()
        return said[0]

    @contextlib.contextmanager
    def _standing(self, order: Ordered) -> Iterator[None]:
        """The order stands while the block runs; room is made on a full disk without it."""
        try:
            catalog.save(self._file, order)
        except StorageError:
            if order.keep:
                raise
        if not order.keep:
            (self._replica.folder / OVERLAYS / KEPT_FILE).unlink(missing_ok=True)
        try:
            yield
        except Exception:
            self._file.unlink(missing_ok=True)
            raise
        self._file.unlink(missing_ok=True)

    def _why_not_keep(self, past: Progress) -> RhaError | None:
        """The reason, and the ways out of it; None: it can be kept, or there is nothing."""
        if self._parted.evidence(past).substitute.is_empty:
            return None
        name, limits = self._replica.name, self._replica.limits
        free = free_bytes(self._replica.folder)
        if free < limits.reserve:
            cause = f"{show_bytes(free)} are free, {show_bytes(limits.reserve)} are the reserve; its point must be held"
            hint = f"make room: df -h {self._replica.folder}; or rha discard {name} --no-keep removes what it wrote"
            return StorageError(f"what the substitute of {name} wrote cannot be kept", cause=cause, hint=hint)
        why = self._replica.points.kept.why_not(past.point)
        if why is None:
            return None
        copies = "; ".join(f"qemu-img convert -U -O qcow2 {image.overlay} FILE" for image in past.images)
        return StateError(
            f"what the substitute of {name} wrote cannot be kept",
            cause="; ".join(filter(None, [why.what, why.cause])),
            hint=f"copy its disks: {copies}; then rha discard {name} --no-keep",
        )

    def _keep(self, past: Progress, person: str, reason: str) -> str:
        """The substitute is off. Raises StateError, StorageError."""
        folder, evidence = self._replica.folder / OVERLAYS, self._parted.evidence(past)
        if not folder.exists() or evidence.substitute.is_empty or past.point is None:
            return "it had written nothing"
        one = KeptSet(
            name=kept_name(past.trigger.decided),
            lsn=past.point.lsn,
            time=past.point.time,
            start=0,
            disks=[image.name for image in past.images],
            created=time.time(),
            by=person,
            reason=reason,
            decided=past.trigger.decided,
            evidence=evidence,
        )
        self._replica.points.kept.take(folder, one)
        held = show_bytes(evidence.substitute.held_bytes)
        self._say(f"what the substitute wrote ({held}) is kept as {one.name}")
        return f"what it wrote ({held}) is kept as {one.name}: rha kept {self._replica.name}"
