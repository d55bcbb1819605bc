"""What a disk's state is and what to do about it. Pure: a snapshot in, a state or an action and its sentence out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rha.units import show_bytes

Method = Literal["full", "compare", "marked"]
State = Literal["write-order", "catching-up", "bitmap", "unknown"]

# A resync begun while the ring is nearly full would only overflow it again.
RING_FREE_ENOUGH = 0.75


@dataclass(frozen=True)
class DiskView:
    """One disk as the engine sees it at a moment.

    `need`: what the appliance said its image lacks; None before it said anything. `is_ordered`: the appliance
    acknowledged the end of the last resync and nothing was lost since. `loss`: sentence of the last loss of order,
    empty when there was none. `method`: of the resync that runs; valid iff `is_syncing`.
    """

    name: str
    is_trusted: bool
    in_data_mode: bool
    is_ordered: bool
    is_syncing: bool
    need: Literal["nothing", "full", "compare", "marked"] | None
    dirty_bytes: int
    loss: str = ""
    method: Method = "marked"


@dataclass(frozen=True)
class Resync:
    """Action: sync these disks (by index) now, each by its method."""

    disks: tuple[int, ...]
    methods: tuple[Method, ...]
    why: str

    def items(self) -> list[tuple[int, Method]]:
        """Each disk with its method."""
        return list(zip(self.disks, self.methods, strict=True))


@dataclass(frozen=True)
class Wait:
    """Action: nothing now."""

    why: str


def state_of(disk: DiskView) -> tuple[State, str]:
    """The disk's state and the sentence that says why."""
    if disk.is_ordered and disk.in_data_mode:
        return "write-order", "every write is in the stream, in order"
    if disk.is_syncing:
        left = show_bytes(disk.dirty_bytes)
        return "catching-up", f"{_NAMES[disk.method]}: {left} not yet on the appliance"
    if not disk.is_trusted:
        return "unknown", disk.loss or "the image was never synced with this disk"
    if disk.in_data_mode:
        return "catching-up", "waits for the appliance; writes are in the ring, in order"
    known = f"{show_bytes(disk.dirty_bytes)} of changed ranges are known and wait for a resync"
    return "bitmap", f"{disk.loss}; {known}" if disk.loss else known


_NAMES = {"full": "first sync", "compare": "sync by comparison", "marked": "resync of changed ranges"}


def method_for(disk: DiskView) -> Method | None:
    """The weakest method that makes the image equal again; None when it is."""
    if disk.need == "full":
        return "full"
    if disk.need == "compare" or not disk.is_trusted:
        return "compare"
    if disk.is_ordered and disk.in_data_mode:
        return None
    return "marked"


def next_action(disks: list[DiskView], ring_free: float) -> Resync | Wait:
    """What to do about the disks. `ring_free`: free part of the ring, 0 to 1."""
    if any(disk.need is None for disk in disks):
        return Wait("the appliance has not said yet what its images need")
    if any(disk.is_syncing for disk in disks):
        return Wait("a resync is running")
    wanted = [(i, method) for i, disk in enumerate(disks) if (method := method_for(disk))]
    if not wanted:
        return Wait("all disks are in write order")
    names = ", ".join(disks[i].name for i, _ in wanted)
    if ring_free < RING_FREE_ENOUGH:
        return Wait(f"{names} must be synced, once the ring has drained ({ring_free:.0%} free)")
    methods = tuple(method for _, method in wanted)
    return Resync(
        tuple(i for i, _ in wanted), methods, f"{names}: {' and '.join(sorted({_NAMES[m] for m in methods}))}"
    )
