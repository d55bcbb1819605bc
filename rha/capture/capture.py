"""A running capture: the pinned probe of one scenario, as the engine uses it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rha._native import ffi, lib
from rha.capture import bpf, drain, pins, shared
from rha.capture.device import Device
from rha.capture.ring import Ring
from rha.capture.spared import Spared


class Gap(NamedTuple):
    """Disk `disk` (index) left write order; the first lost write was submitted when the ring stood at `position`."""

    disk: int
    position: int


class Misfit(NamedTuple):
    """Pins that do not fit: the name of the reason, and what was seen."""

    reason: str
    evidence: str


class Capture:
    """Adopts what the loader pinned. Closing it leaves the kernel part running.

    Raises OSError when a pin cannot be opened or mapped.
    """

    def __init__(self, scenario: str, devices: list[Device]) -> None:
        self.scenario, self.devices = scenario, devices
        self._fds = pins.read(scenario)
        self.state = shared.view(self._fds["state"], shared.STATE, 1)[0]
        slots = int(self.state["ncpus"]) * shared.MAX_DISKS
        self._counters = shared.view(self._fds["counters"], shared.COUNTERS, slots)
        self._gaps = self._counters["gap"].reshape(-1, shared.MAX_DISKS)
        words = int(self.state["disk"]["bitmap_words"].sum())
        self._dirty = shared.view(self._fds["dirty"], np.dtype("<u8"), words)
        self._pending = shared.view(self._fds["pending"], np.dtype("<u8"), words)
        self.ring = Ring(self._fds["ring"], int(self.state["ring_bytes"]))
        self._miss_counters = [bpf.MissCounter(self._fds[name]) for name in pins.PROGRAMS]
        self._misses = 0, 0
        self._tracking_link: int | None = None

    def close(self) -> None:
        self.stop_tracking()
        self.ring.close()
        pins.close(self._fds)

    # Identity -------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> str:
        """Name of this ring's life, 32 hex digits."""
        return bytes(self.state["generation"]).hex()

    @property
    def lsn_base(self) -> int:
        """LSN of ring position 0; 0 while none was chosen."""
        return int(self.state["lsn_base"])

    def renew(self, floor: int) -> None:
        """Begins another generation, its LSNs above `floor`: the appliance knows nothing of this one. What the ring
        holds is given up, so no disk is in write order or trusted afterwards."""
        for disk in range(len(self.devices)):
            self.state["disk"][disk]["mode"] = shared.MODE_BITMAP
            self.set_trusted(disk, False)
        self._discard_ring()
        self.state["generation"] = list(uuid.uuid4().bytes)
        self.state["lsn_base"] = max(8, floor + 8 & ~7)

    def _discard_ring(self) -> None:
        """Frees what stands in the ring now. Walks it: space of a record still being written must not be given back."""
        self.ring.seek(self.ring.consumer)
        target = self.ring.producer
        while self.ring.cursor < target:
            self.ring.next(self.ring.bytes, target)
        self.ring.release(self.ring.cursor)

    def second_reader(self) -> Ring:
        """Another reader of the ring, with a cursor of its own. Raises OSError."""
        return Ring(self._fds["ring"], self.ring.bytes)

    def misfit(self) -> Misfit | None:
        """The reason why these pins do not fit the scenario's devices any more, or None. A device that has grown fits
        while its bitmap has room: see `grow`."""
        if int(self.state["ndisks"]) != len(self.devices):
            return Misfit("device-changed", f"{int(self.state['ndisks'])} disks, the scenario has {len(self.devices)}")
        for slot, device in zip(self.state["disk"], self.devices, strict=False):
            was = tuple(int(slot[key]) for key in ("dev", "start", "diskseq"))
            now = (device.dev, device.start, device.diskseq)
            if was != now:
                return Misfit("device-changed", f"{device.path}: device, start and sequence {was} are now {now}")
        for i, device in enumerate(self.devices):
            sectors = self.sectors(i)
            if device.sectors < sectors or not self.has_room_for(i, device):
                return Misfit("resized", f"{device.path}: {sectors} sectors are now {device.sectors}")
        return None

    def sectors(self, disk: int) -> int:
        """Length of the watched part in sectors, as the probe knows it."""
        return int(self.state["disk"][disk]["sectors"])

    def has_room_for(self, disk: int, device: Device) -> bool:
        """True when the bitmap reaches to the device's end."""
        return shared.words_for(device.bytes) <= int(self.state["disk"][disk]["bitmap_words"])

    def grow(self, disk: int, device: Device) -> None:
        """Follows a device that has grown: its new part is pending, the disk in bitmap mode. What was written there
        before the probe knew of it is covered by that. A kill at any point is followed by another call."""
        slot = self.state["disk"][disk]
        before = int(slot["sectors"]) * 512
        slot["mode"] = shared.MODE_BITMAP
        time.sleep(shared.PROBE_SECONDS)
        self.devices[disk] = device
        first = before // shared.BLOCK_BYTES
        plane, _ = self._plane(self._pending, disk)
        lib.rha_bits_set(plane, first, self.blocks(disk) - first)
        slot["sectors"] = device.sectors

    # The spool on a watched disk ------------------------------------------------------------------------------

    def spared(self) -> Spared | None:
        """The file whose writes are not captured while its engine lives; None when there is none."""
        state, count = self.state, int(self.state["spared_count"])
        if not count:
            return None
        ranges = tuple((int(one["begin"]), int(one["end"])) for one in state["spared"][:count])
        return Spared(int(state["spared_disk"]), int(state["spared_inode"]), int(state["spared_version"]), ranges)

    def spare(self, file: Spared | None) -> None:
        """Writes inside the file are not captured, until the time that `spare_until` gives. None: all are captured."""
        state = self.state
        state["spared_until"] = 0
        time.sleep(shared.PROBE_SECONDS)  # a probe that is under way must not see half of another table
        state["spared_count"] = 0
        if file:
            state["spared_dev"] = self.devices[file.disk].dev
            state["spared_disk"], state["spared_inode"], state["spared_version"] = file[:3]
            for i, (begin, end) in enumerate(file.ranges):
                state["spared"][i]["begin"], state["spared"][i]["end"] = begin, end
            state["spared_count"] = len(file.ranges)

    def spare_until(self, time_ns: int) -> None:
        """CLOCK_MONOTONIC, ns."""
        self.state["spared_until"] = time_ns

    def spared_blocks(self, disk: int) -> list[tuple[int, int]]:
        """(first, count) of the bitmap blocks of a disk whose content the image does not follow."""
        file = self.spared()
        if file is None or file.disk != disk:
            return []
        start, block = self.devices[disk].start, shared.BLOCK_BYTES // 512
        return [((begin - start) // block, (end - begin) // block) for begin, end in file.ranges]

    # Modes and losses -----------------------------------------------------------------------------------------

    def mode(self, disk: int) -> int:
        return int(self.state["disk"][disk]["mode"])

    def enter_bitmap_mode(self, disk: int) -> None:
        """From now on writes of the disk only set bits; probes that are under way may still use the ring for a
        moment."""
        self.state["disk"][disk]["mode"] = shared.MODE_BITMAP

    def enter_data_mode(self, disk: int) -> None:
        """From now on every write of the disk goes into the ring. Forgets the gap of the time before."""
        self._gaps[:, disk] = 0
        self.state["disk"][disk]["mode"] = shared.MODE_DATA

    def is_trusted(self, disk: int) -> bool:
        """True when image, stream and bitmap together miss no write of the disk."""
        return bool(self.state["disk"][disk]["trusted"])

    def is_suspected(self, disk: int) -> bool:
        """True when pending blocks are such that may differ, rather than such that do: comparing is cheaper."""
        return int(self.state["disk"][disk]["trusted"]) == shared.TRUSTED_SUSPECTED

    def set_trusted(self, disk: int, value: bool, *, suspected: bool = False) -> None:
        """Outlives the engine, as the bits do."""
        self.state["disk"][disk]["trusted"] = shared.TRUSTED_SUSPECTED if value and suspected else int(value)

    def gaps(self) -> list[Gap]:
        """The disks that lost a write since they entered data mode. Cheap: looked at for every frame."""
        if not self._gaps.any():
            return []
        found = []
        for disk in range(len(self.devices)):
            positions = self._gaps[:, disk]
            if positions.any():
                found.append(Gap(disk, int(positions[positions != 0].min()) & ~1))
        return found

    def losses(self, disk: int) -> dict[str, int]:
        """How often each reason took the disk out of write order, since the load; reasons that never did are left
        out."""
        totals = self._of_disk(disk)["lost"].sum(axis=0)
        return {name: int(totals[i]) for i, (name, _) in enumerate(shared.LOSSES) if totals[i]}

    def captured(self, disk: int) -> tuple[int, int]:
        """(records, payload bytes) that went into the ring since the load."""
        mine = self._of_disk(disk)
        return int(mine["records"].sum()), int(mine["payload_bytes"].sum())

    def _of_disk(self, disk: int) -> Any:
        """The disk's counters, one element a CPU."""
        return self._counters.reshape(-1, shared.MAX_DISKS)[:, disk]

    def new_misses(self) -> dict[str, int]:
        """Calls of the probe without effect since `answer_misses`, by reason: each may be a write that nothing marked.
        Skipped by the kernel, as the program was already running on that CPU, or unable to read what it was called for.
        """
        self._misses = sum(counter.read() for counter in self._miss_counters), int(self.state["blind"])
        skipped = (self._misses[0] - int(self.state["misses_seen"])) & 0xFFFFFFFF  # misses_seen has 32 bits
        found = {"recursion-miss": skipped, "unread-bio": self._misses[1] - int(self.state["blind_seen"])}
        return {reason: count for reason, count in found.items() if count}

    def answer_misses(self) -> None:
        """What `new_misses` found last is made up for, or will be; what comes later counts anew."""
        self.state["misses_seen"], self.state["blind_seen"] = self._misses[0] & 0xFFFFFFFF, self._misses[1]

    # The late set ---------------------------------------------------------------------------------------------

    def start_tracking(self, disks: list[int]) -> None:
        """Completed writes of these disks set dirty bits, from now on. Raises OSError."""
        for disk in disks:
            self.state["disk"][disk]["tracking"] = 1
        self.state["tracking"] = 1
        if self._tracking_link is None:
            self._tracking_link = bpf.attach_raw_tracepoint(self._fds["on_complete"], "block_rq_complete")

    def stop_tracking(self) -> None:
        self.state["disk"]["tracking"] = 0
        self.state["tracking"] = 0
        if self._tracking_link is not None:
            os.close(self._tracking_link)
            self._tracking_link = None

    def drain(self, disk: int, check: Callable[[], None] = lambda: None) -> str:
        """Waits until the writes submitted before the call have ended. Returns the way that was taken, in a few words.
        `check` is called again and again while it waits for a bio-based disk, and may raise.

        Raises DeviceError when that could not be had in time.
        """
        slot, device = self.state["disk"][disk], self.devices[disk]
        if not slot["bio_based"]:
            return drain.drain(device)
        settled = drain.settle(device, slot, check)
        drain.drain_flights(device.path, slot, self._of_disk(disk), check)
        return f"{settled}every write was seen to end"

    def keeps_writes_since(self, disk: int) -> float | None:
        """CLOCK_MONOTONIC, seconds: each write that was submitted later is kept by the probe until it ends, so that
        `drain` misses none, wherever it is on its way. None for a disk with a request queue: the queue is drained, and
        knows nothing of a write that is about to enter it."""
        slot = self.state["disk"][disk]
        return int(slot["unsettled_ns"]) / 1e9 if slot["bio_based"] else None

    def in_flight(self, disk: int) -> int:
        """Writes of a bio-based disk that have not ended; 0 for a disk with a request queue."""
        return sum(drain.in_flight(self._of_disk(disk), epoch) for epoch in (0, 1))

    # Bitmaps --------------------------------------------------------------------------------------------------

    def blocks(self, disk: int) -> int:
        """Bits of the disk: its size in 64 KiB blocks, rounded up."""
        return -(-self.devices[disk].bytes // shared.BLOCK_BYTES)

    def _plane(self, plane: Any, disk: int) -> tuple[Any, int]:
        slot = self.state["disk"][disk]
        first, count = int(slot["bitmap_word"]), int(slot["bitmap_words"])
        return ffi.from_buffer("uint64_t[]", plane[first : first + count]), count

    def collect_dirty(self, disk: int) -> None:
        """Moves the probe's bits to the pending plane. A kill at any point leaves bits too many, never too few."""
        if self.state["disk"][disk]["all_dirty"]:
            self.mark_all_pending(disk)
            self.state["disk"][disk]["all_dirty"] = 0
        source, words = self._plane(self._dirty, disk)
        target, _ = self._plane(self._pending, disk)
        lib.rha_bits_move(source, target, words)

    def mark_all_pending(self, disk: int) -> None:
        target, _ = self._plane(self._pending, disk)
        lib.rha_bits_set(target, 0, self.blocks(disk))

    def mark_pending(self, disk: int, first: int, count: int) -> None:
        target, _ = self._plane(self._pending, disk)
        lib.rha_bits_set(target, first, count)

    def clear_pending(self, disk: int, first: int, count: int) -> None:
        """These blocks have arrived on the appliance."""
        target, _ = self._plane(self._pending, disk)
        lib.rha_bits_clear(target, first, count)

    def next_pending(self, disk: int, start: int, longest: int) -> tuple[int, int] | None:
        """The next run of pending blocks at or after `start`: (first, count), or None."""
        plane, _ = self._plane(self._pending, disk)
        first = ffi.new("uint64_t *")
        count = lib.rha_bits_next_run(plane, self.blocks(disk), start, longest, first)
        return (int(first[0]), int(count)) if count else None

    def dirty_bytes(self, disk: int) -> int:
        """Bytes of blocks that the image may lack: marked by the probe or waiting to be sent."""
        if self.state["disk"][disk]["all_dirty"]:
            return self.devices[disk].bytes
        dirty, words = self._plane(self._dirty, disk)
        pending, _ = self._plane(self._pending, disk)
        blocks = lib.rha_bits_count(dirty, words) + lib.rha_bits_count(pending, words)
        return min(int(blocks) * shared.BLOCK_BYTES, self.devices[disk].bytes)
