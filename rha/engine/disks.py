"""What the engine knows of each disk of its scenario: what the appliance's image lacks, why order was lost, since when.

Facts come in from the session's, the round's and the watch's thread; decisions (state.py) get immutable views. Every
loss is noticed here, in `look`, and stays listed until the disk enters data mode again, so that each session announces
it to the appliance, whoever noticed it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from rha.capture import shared
from rha.capture.capture import Capture, Gap
from rha.engine.history import Change, History
from rha.engine.progress import SyncProgress
from rha.engine.state import LOSES_RANGES, REASONS, Cause, DiskView, Method, Need, Verdict, state_of
from rha.report import Sync
from rha.wire.messages import DiskNeed


class Loss(NamedTuple):
    """Disk `disk` is not in write order from ring position `position` on; 0: it may never have been."""

    disk: int
    reason: str
    position: int


class Disks:
    """`names`: the scenario's disks. `cause`: why none can be trusted, when the probe was loaded just now."""

    def __init__(self, names: list[str], capture: Capture, history: History, cause: Cause | None) -> None:
        self.lock = threading.RLock()
        self.names, self.history, self._capture = names, history, capture
        count = len(names)
        self._need: list[Need | None] = [None] * count
        self._ordered = [False] * count
        self._cause: list[Cause | None] = [cause] * count
        self._trouble: list[Cause | None] = [None] * count
        self._losses: dict[int, Loss] = {}
        self.last_sync: list[Sync | None] = [None] * count
        self._summary = [""] * count
        self._counted = [dict[str, int]() for _ in names]  # losses that were given a cause already
        self._last = [history.last(name) for name in names]
        for disk in range(count):
            if cause:
                self._note(disk, cause)
            else:
                self._recall(disk)

    def _recall(self, disk: int) -> None:
        """An adopted probe: what it lost before this engine began has its cause in the history, or none was noted."""
        last = self._last[disk]
        if last and last.state != "write-order" and last.reason in REASONS:
            self._cause[disk] = Cause(last.reason, last.evidence, last.time)
        if not any(gap.disk == disk for gap in self._capture.gaps()):
            self._counted[disk] = self._capture.losses(disk)

    # What comes in --------------------------------------------------------------------------------------------

    def take_needs(self, needs: Iterable[DiskNeed]) -> None:
        """What the appliance says its images lack."""
        said = {need.name: need for need in needs}
        with self.lock:
            gone = {gap.disk for gap in self._capture.gaps()}
            for disk, name in enumerate(self.names):
                need = said[name].need if name in said else "compare"
                self._need[disk] = need
                if need in ("full", "compare"):
                    self._suspect(disk, "image-new" if need == "full" else "image-unknown")
                self._ordered[disk] = need == "nothing" and disk not in gone and self._misses_nothing(disk)
                if self._ordered[disk]:
                    self._cause[disk] = None
                elif need == "nothing" and disk not in gone:  # the appliance does not know yet
                    cause = self._cause[disk]
                    self._losses.setdefault(disk, Loss(disk, cause.reason if cause else "image-unknown", 0))

    def _misses_nothing(self, disk: int) -> bool:
        """The stream holds all that the appliance does not. Marked ranges say no, even in data mode: a round had begun,
        which forgets the gap, and the link broke before the appliance had heard of gap or mark."""
        capture = self._capture
        in_data_mode = capture.mode(disk) == shared.MODE_DATA
        return capture.is_trusted(disk) and in_data_mode and not capture.dirty_bytes(disk)

    def _suspect(self, disk: int, reason: str) -> None:
        """The bits stand for less than this image lacks."""
        if self._capture.is_trusted(disk):
            self._capture.set_trusted(disk, False)
            self._note(disk, Cause(reason, "", time.time()))

    def forget_needs(self) -> None:
        """The link is gone: the next appliance says anew what it has."""
        with self.lock:
            self._need = [None] * len(self._need)

    def round_done(self, disks: Mapping[int, SyncProgress]) -> None:
        """The appliance acknowledged the end of a resync. By disk: what it was."""
        with self.lock:
            gone = {gap.disk for gap in self._capture.gaps()}
            for disk, progress in disks.items():
                self._need[disk] = "nothing"
                self.last_sync[disk] = progress.as_report()
                self._summary[disk] = progress.summary()
                if not self._capture.is_trusted(disk):
                    continue  # a loss came with the last acknowledgement
                self._capture.set_trusted(disk, True)
                self._ordered[disk] = disk not in gone and disk not in self._losses
                if self._ordered[disk]:
                    self._cause[disk] = None

    def round_failed(self, disks: Iterable[int]) -> None:
        """What the round did not reach is pending."""
        with self.lock:
            for disk in disks:
                if self._capture.is_trusted(disk) and self._need[disk] is not None:
                    self._need[disk] = "marked"

    def enters_data_mode(self, disk: int) -> None:
        """Its next loss is news."""
        with self.lock:
            self._losses.pop(disk, None)
            self._counted[disk] = self._capture.losses(disk)

    def leave_order(self, disk: int, cause: Cause, position: int = 0) -> None:
        """The engine itself knows that the stream does not hold every write of the disk from here on."""
        with self.lock:
            if cause.reason in LOSES_RANGES:
                self._capture.set_trusted(disk, False)
            self._losses[disk] = Loss(disk, cause.reason, position)
            self._note(disk, cause)

    def set_trouble(self, disk: int, cause: Cause | None) -> None:
        """The device itself is not as it must be, or is again: then it must be compared."""
        with self.lock:
            before, self._trouble[disk] = self._trouble[disk], cause
            if cause and before is None:
                self.leave_order(disk, cause)

    # What the probe says --------------------------------------------------------------------------------------

    def look(self) -> list[Loss]:
        """Every loss that stands, new ones noted. Cheap: asked for each region of the ring that is shipped."""
        with self.lock:
            if missed := self._capture.new_misses():
                self._take_misses(missed)
            for gap in self._capture.gaps():
                if gap.disk not in self._losses:
                    self._take_gap(gap)
            return list(self._losses.values())

    def _take_misses(self, missed: Mapping[str, int]) -> None:
        """A call of the probe that did nothing may have been a write that nothing marked: no disk can be trusted.
        Answered last: a kill before that finds them again."""
        reason = max(missed, key=lambda name: missed[name])
        evidence = ", ".join(f"{name} {count}" for name, count in sorted(missed.items()))
        for disk in range(len(self.names)):
            self.leave_order(disk, Cause(reason, evidence, time.time()))
        self._capture.answer_misses()

    def _take_gap(self, gap: Gap) -> None:
        losses, before = self._capture.losses(gap.disk), self._counted[gap.disk]
        news = [name for name in losses if losses[name] > before.get(name, 0)]
        self._counted[gap.disk] = losses
        count = sum(losses[name] - before.get(name, 0) for name in news)
        lsn = self._capture.lsn_base + gap.position
        writes = f"{count} {'write' if count == 1 else 'writes'} from LSN {lsn} on"
        others = f", also {', '.join(news[1:])}" if news[1:] else ""
        # The probe counts a loss before it notes the position, so there is one; the counters of two CPUs may still be
        # summed a moment apart.
        reason = news[0] if news else "ring-full"
        self._losses[gap.disk] = Loss(gap.disk, reason, gap.position)
        self._note(gap.disk, Cause(reason, writes + others, time.time()))

    def _note(self, disk: int, cause: Cause) -> None:
        """Out of order, for this reason: counted, and kept."""
        self._cause[disk], self._ordered[disk] = cause, False
        if self._need[disk] == "nothing":
            self._need[disk] = "marked"
        verdict = state_of(self.view(disk))
        self._add(disk, verdict, cause.evidence, is_loss=True)

    # What goes out --------------------------------------------------------------------------------------------

    def view(self, disk: int, method: Method | None = None) -> DiskView:
        """The disk as it is now. `method`: of the resync that runs for it."""
        capture = self._capture
        with self.lock:
            return DiskView(
                name=self.names[disk],
                is_trusted=capture.is_trusted(disk),
                is_suspected=capture.is_suspected(disk),
                in_data_mode=capture.mode(disk) == shared.MODE_DATA,
                is_ordered=self._ordered[disk],
                is_syncing=method is not None,
                need=self._need[disk],
                dirty_bytes=0 if self._ordered[disk] else capture.dirty_bytes(disk),
                cause=self._cause[disk],
                trouble=self._trouble[disk],
                method=method or "marked",
            )

    def all_ordered(self) -> bool:
        with self.lock:
            return all(self._ordered) and not any(self._trouble)

    def verdict(self, disk: int, view: DiskView) -> tuple[Verdict, float]:
        """The disk's state, and since when. A change goes into the history."""
        verdict = state_of(view)
        with self.lock:
            last = self._last[disk]
            if last is None or last.state != verdict.state:
                evidence = view.cause.evidence if view.cause else self._take_summary(disk, verdict)
                last = self._add(disk, verdict, evidence, is_loss=False)
            return verdict, last.time

    def _take_summary(self, disk: int, verdict: Verdict) -> str:
        """What the sync was that brought the disk into write order; told once."""
        if verdict.state != "write-order":
            return ""
        said, self._summary[disk] = self._summary[disk], ""
        return said

    def _add(self, disk: int, verdict: Verdict, evidence: str, *, is_loss: bool) -> Change:
        change = Change(
            time=time.time(),
            disk=self.names[disk],
            state=verdict.state,
            reason=verdict.reason,
            why=verdict.why,
            evidence=evidence,
            is_loss=is_loss,
            sync=self.last_sync[disk] if verdict.state == "write-order" and evidence else None,
        )
        before = self._last[disk]
        # `since` tells how long the disk has been in its state, so a second loss in the same state does not move it.
        self._last[disk] = (
            msgspec.structs.replace(change, time=before.time) if before and before.state == change.state else change
        )
        self.history.add(change)
        return self._last[disk] or change
