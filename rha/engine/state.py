"""What a disk's state is and what to do about it. Pure: a snapshot in, a state or an action and its sentence out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from rha.capture.shared import LOSSES
from rha.units import show_bytes

Need = Literal["nothing", "full", "compare", "marked"]
Method = Literal["full", "volume", "compare", "marked"]
Policy = Literal["auto", "volume", "block", "full", "offline"]  # the scenario's `sync.method`
State = Literal["write-order", "catching-up", "bitmap", "unknown"]

# A resync begun while the ring is nearly full would only overflow it again.
RING_FREE_ENOUGH = 0.75

# Everything that takes a disk out of write order, by the name that reports count it under. The first group loses order
# only: the ranges are marked. After the others the bitmap stands for less than the image lacks: compare.
KEEPS_RANGES = dict(LOSSES)
LOSES_RANGES = {
    "recursion-miss": "the kernel skipped calls of the probe",
    "unread-bio": "the probe could not read a write's head",
    "first-load": "the probe was never loaded for this scenario on this host",
    "reboot": "the host was restarted",
    "unclean-shutdown": "the host went down and the engine was not told",
    "pins-gone": "the probe was taken out of the kernel while the engine was away",
    "probe-reload": "the probe of another version was replaced",
    "device-changed": "the device is not the one that was watched",
    "resized": "the device has another size, beyond what the running probe can follow",
    "shrunk": "the device has become smaller than its image",
    "removed": "the device is gone",
    "spool-lost": "what was spooled could not be read back",
    "image-unknown": "the appliance's image belongs to another moment of this disk",
    "image-new": "the appliance's image is new",
}
GROWN = "grown"  # ranges known: the new part is marked
SPOOL_MOVED = "spool-moved"  # ranges known: those of the spool
REASONS = {
    **KEEPS_RANGES,
    **LOSES_RANGES,
    GROWN: "the device has grown",
    SPOOL_MOVED: "the spool on this disk is another file, or lies elsewhere",
}


@dataclass(frozen=True)
class Cause:
    """Why a disk is not in write order. `reason`: key of REASONS; `evidence`: what was seen, in a few words; `time`:
    when, seconds since the epoch."""

    reason: str
    evidence: str = ""
    time: float = 0.0

    @property
    def sentence(self) -> str:
        """For a person."""
        said = REASONS[self.reason]
        return f"{said} ({self.evidence})" if self.evidence else said


@dataclass(frozen=True)
class DiskView:
    """One disk as the engine sees it at a moment.

    `need`: what the appliance said its image lacks; None before it said anything. `is_ordered`: the appliance
    acknowledged the end of the last resync and nothing was lost since. `is_suspected`: its marked ranges are all that
    may differ, not what is known to. `cause`: of the last loss of order; None when there was none. `trouble`: of the
    device itself, which no resync can mend; None when it is well. `method`: of the resync that runs; valid iff
    `is_syncing`.
    """

    name: str
    is_trusted: bool
    in_data_mode: bool
    is_ordered: bool
    is_syncing: bool
    need: Need | None
    dirty_bytes: int
    is_suspected: bool = False
    cause: Cause | None = None
    trouble: Cause | None = None
    method: Method = "marked"


class Verdict(NamedTuple):
    """A disk's state, the name of the reason and the sentence that says why."""

    state: State
    reason: str
    why: str


@dataclass(frozen=True)
class Resync:
    """Action: sync these disks (by index) now, each by its method. `skips_free`: those that go over a whole disk leave
    out what its file systems hold for free."""

    disks: tuple[int, ...]
    methods: tuple[Method, ...]
    why: str
    skips_free: bool = False

    def items(self) -> list[tuple[int, Method]]:
        """Each disk with its method."""
        return list(zip(self.disks, self.methods, strict=True))


@dataclass(frozen=True)
class Wait:
    """Action: nothing now."""

    why: str


def state_of(disk: DiskView) -> Verdict:
    """The disk's state, and why."""
    if disk.trouble:
        return Verdict("unknown", disk.trouble.reason, disk.trouble.sentence)
    if disk.is_ordered and disk.in_data_mode:
        return Verdict("write-order", "synced", "every write is in the stream, in order")
    if disk.is_syncing:
        left = f"{METHOD_NAMES[disk.method]}: {show_bytes(disk.dirty_bytes)} not yet on the appliance"
        return Verdict("catching-up", _reason(disk, "sync"), left)
    if not disk.is_trusted:
        why = disk.cause.sentence if disk.cause else "the image was never synced with this disk"
        return Verdict("unknown", _reason(disk, "image-new"), why)
    if disk.in_data_mode and disk.cause is None:
        return Verdict("catching-up", "waiting", "waits for the appliance; writes are in the ring, in order")
    known = f"{show_bytes(disk.dirty_bytes)} of changed ranges are known and wait for a resync"
    why = f"{disk.cause.sentence}; {known}" if disk.cause else known
    return Verdict("bitmap", _reason(disk, "waiting"), why)


def _reason(disk: DiskView, otherwise: str) -> str:
    return disk.cause.reason if disk.cause else otherwise


METHOD_NAMES = {
    "full": "first sync",
    "volume": "sync of used blocks",
    "compare": "sync by comparison",
    "marked": "resync of changed ranges",
}


def method_for(disk: DiskView, policy: Policy = "auto") -> Method | None:
    """The method that makes the image equal again, the cheapest that the policy allows; None when it is, or when
    nothing can.

    auto: used blocks into a new image, a comparison with an old one, both without free space. volume: used blocks,
    never compared: for a line that is faster than two disks are read. block: compared, free space too, so that the
    image becomes equal to the last byte; full: the same without comparing. offline: as auto, but a new image waits for
    the import of a medium.
    """
    if disk.trouble:
        return None
    if disk.need == "full":
        if policy == "offline":
            return None
        return "volume" if policy in ("auto", "volume") else "full"
    if disk.need == "compare" or not disk.is_trusted:
        return policy if policy in ("volume", "full") else "compare"
    if disk.is_ordered and disk.in_data_mode:
        return None
    return "compare" if disk.is_suspected else "marked"


def next_action(disks: list[DiskView], ring_free: float, policy: Policy = "auto") -> Resync | Wait:
    """What to do about the disks. `ring_free`: free part of the ring, 0 to 1; `policy`: of the scenario."""
    if any(disk.need is None for disk in disks):
        return Wait("the appliance has not said yet what its images need")
    if any(disk.is_syncing for disk in disks):
        return Wait("a resync is running")
    wanted = [(i, method) for i, disk in enumerate(disks) if (method := method_for(disk, policy))]
    if not wanted and policy == "offline" and (new := [disk.name for disk in disks if disk.need == "full"]):
        return Wait(f"{', '.join(new)}: the first sync comes by medium: rha sync import on the appliance")
    if not wanted:
        hopeless = ", ".join(f"{disk.name}: {disk.trouble.sentence}" for disk in disks if disk.trouble)
        return Wait(f"no resync helps: {hopeless}" if hopeless else "all disks are in write order")
    names = ", ".join(disks[i].name for i, _ in wanted)
    if ring_free < RING_FREE_ENOUGH:
        return Wait(f"{names} must be synced, once the ring has drained ({ring_free:.0%} free)")
    methods = tuple(method for _, method in wanted)
    why = f"{names}: {' and '.join(sorted({METHOD_NAMES[m] for m in methods}))}"
    return Resync(tuple(i for i, _ in wanted), methods, why, policy in ("auto", "volume", "offline"))
