"""Split brain: a master and its substitute have both written since the point that the substitute was made from. Pure.

The evidence of both sides in, a verdict and its sentence out. What is not known is never taken for nothing: only a
master that is known to have written nothing, or a substitute that is, makes no split.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import msgspec

from rha.report import Point
from rha.switch.progress import SWITCHOVER
from rha.units import show_bytes
from rha.vm.written import DiskWritten
from rha.wire.messages import Alone, AloneDisk

Kind = Literal["unheard", "none", "released", "possible", "split"]


class Heard(msgspec.Struct, kw_only=True, frozen=True):
    """What a master's engine said when it was sent away. `host`: its name for itself; `time`: when, by the appliance's
    clock; `decided`: names the switch that it was sent away for; `generation`: of its LSNs. `alone`: None from an
    engine that does not say."""

    host: str
    peer: str
    time: float
    decided: float
    generation: str
    alone: Alone | None = None


class Substitute(msgspec.Struct, kw_only=True, frozen=True):
    """`started`: of its VM, the appliance's clock. `state`: of its domain now."""

    domain: str
    state: str
    started: float | None
    disks: list[DiskWritten]

    @property
    def held_bytes(self) -> int:
        """Of all overlays, as far as they can be asked."""
        return sum(disk.held_bytes or 0 for disk in self.disks)

    @property
    def guest_bytes(self) -> int | None:
        """None: no disk was counted."""
        known = [disk.guest_bytes for disk in self.disks if disk.guest_bytes is not None]
        return sum(known) if known else None

    @property
    def is_empty(self) -> bool:
        return all(disk.is_empty for disk in self.disks)


class Evidence(msgspec.Struct, kw_only=True, frozen=True):
    """Both sides. `kind`, `reason`, `by`, `decided`: of the switch. `devices`: of the master's disks by name; `units`:
    what serves there. `common`: the point that the substitute was made
    from; None: from images that were none. `received_lsn`: the stream that the appliance has; `generation`: of its
    LSNs, empty when it was dropped. `master`: None: it has not come since."""

    scenario: str
    kind: str
    reason: str
    by: str
    decided: float
    common: Point | None
    received_lsn: int
    generation: str
    substitute: Substitute
    master: Heard | None = None
    devices: dict[str, str] = {}
    units: list[str] = []

    @property
    def alone(self) -> Alone | None:
        return self.master.alone if self.master else None

    @property
    def is_comparable(self) -> bool:
        """Are the master's LSNs and the common point's one count?"""
        return bool(self.common and self.master and self.generation == self.master.generation and self.alone)

    @property
    def stream_bytes(self) -> int | None:
        """Of the master's stream behind the common point; None: not known."""
        if not self.is_comparable or not self.common or not self.alone:
            return None
        return max(0, self.alone.lsn - self.common.lsn)


class Verdict(NamedTuple):
    """`unheard`: the master has not come; `none`: one side has written nothing; `released`: the master has handed over,
    what it wrote since is its own system's; `possible`: not all is known."""

    kind: Kind
    sentence: str

    @property
    def is_alarm(self) -> bool:
        return self.kind in ("possible", "split")


def judge(evidence: Evidence) -> Verdict:
    """The verdict, with a sentence that stands for itself."""
    name, at = evidence.scenario, show_common(evidence.common)
    if evidence.substitute.is_empty:
        return Verdict("none", f"the substitute of {name} has written nothing: nothing has parted")
    if evidence.master is None:
        return Verdict("unheard", f"the master of {name} has not come since; what it wrote alone is not known")
    unknown = unknowns(evidence)
    if unknown:
        what = f"SPLIT BRAIN IS POSSIBLE: the substitute of {name} has written since {at}; of its master"
        return Verdict("possible", f"{what} is not known what it wrote alone: {unknown[0]} (rha split {name})")
    mine = masters_words(evidence)
    if not mine:
        return Verdict("none", f"the master of {name} has written nothing since {at}: nothing has parted")
    theirs = substitutes_words(evidence.substitute)
    both = f"since {at} the master of {name} wrote {mine}, its substitute {theirs}"
    if evidence.kind == SWITCHOVER:
        return Verdict("released", f"{both}; the master had handed over, its applications stand still")
    return Verdict("split", f"SPLIT BRAIN: {both} (rha split {name})")


def unknowns(evidence: Evidence) -> list[str]:
    """Why what the master wrote alone cannot be told, in sentences; empty: it can."""
    alone = evidence.alone
    if evidence.master is None:
        return ["it has not come since the substitute was started"]
    if alone is None:
        return ["its engine does not say (an older version)"]
    found = [f"{disk.name}: {disk.why}; compare needed" for disk in alone.disks if disk.state == "unknown"]
    if evidence.common is None:
        found.append("the substitute was started from images that were no point of the master (forced)")
    elif not evidence.is_comparable:
        found.append("its capture began anew, its LSNs are another count; compare needed")
    return found


def masters_words(evidence: Evidence) -> str:
    """What the master wrote alone, as far as it is known; empty: nothing is known of."""
    alone, stream = evidence.alone, evidence.stream_bytes
    parts = [payload_words(evidence)] if alone and stream else []
    if alone:
        parts += [f"at most {show_bytes(disk.dirty_bytes)} in ranges of {disk.name}" for disk in _marked(alone)]
    return ", and ".join(parts)


def payload_words(evidence: Evidence) -> str:
    """`12 KiB in 3 records` where the records behind the common point were counted, else the stream's length."""
    alone, stream = evidence.alone, evidence.stream_bytes
    assert alone is not None
    assert stream is not None
    if alone.payload_bytes is None or alone.records is None or evidence.common is None:
        return f"{show_bytes(stream)} of stream"
    bound = {-1: "at most ", 0: "", 1: "at least "}[_sign(alone.acknowledged_lsn - evidence.common.lsn)]
    records = f"{alone.records} {'record' if alone.records == 1 else 'records'}"
    return f"{bound}{show_bytes(alone.payload_bytes)} in {records}"


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _marked(alone: Alone) -> list[AloneDisk]:
    return [disk for disk in alone.disks if disk.state == "marked" and disk.dirty_bytes]


def substitutes_words(side: Substitute) -> str:
    """`1.2 MiB (its overlays hold 2 MiB) since …`."""
    since = f" since {show_time(side.started)}" if side.started else ""
    held = f"{show_bytes(side.held_bytes)} of clusters"
    if side.guest_bytes is None:
        return held + since
    return f"{show_bytes(side.guest_bytes)} ({held}){since}"


def show_common(point: Point | None) -> str:
    return f"LSN {point.lsn} ({show_time(point.time)})" if point else "images that were no point"


def show_time(moment: float) -> str:
    return time.strftime("%F %T", time.localtime(moment))
