"""The stack matrix: on every kind of disk, and above and below every layer, the replica equals the master.

`python -m vmlab stacks [GROUP…]` prints the table. For each group of stacks: engine started while a writer works, first
sync, write order, some more writes and a trim, writer stopped, unmounted; then every watched device is copied with dd
inside the machine to a fresh disk, and qemu-img compares the copy with the replica.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rha.units import show_bytes
from vmlab import disk, layers
from vmlab.layers import MIB, Stack
from vmlab.machine import Machine
from vmlab.site import Site, why_not_equal

MACHINE_MIB = 1792
SETTLED_SECONDS = 5  # the writer goes on for so long in write order
SLOT_BYTES = 512 * MIB  # of the copy, per device

Say = Callable[[str], None]


@dataclass(frozen=True)
class Watched:
    """A device that a scenario watches. `label`: as the table shows it; `key`: the disk's name in the scenario."""

    label: str
    key: str
    device: str


# What one machine takes. Layers are watched at their top, then at the disks below.
GROUPS: dict[str, Callable[[], list[Stack]]] = {
    "disks": layers.on_whole_disks,
    "partitions": layers.on_partitions,
    "layers": layers.layered,
}


def run(say: Say = print, groups: Sequence[str] = tuple(GROUPS)) -> dict[str, str]:
    """Name of the stack → "equal", or the reason why not: rha's refusal, or what qemu-img found. Six to twenty minutes
    under TCG.

    Raises RhaError when the machine or the appliance does not do its part.
    """
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp") as name:
        folder = Path(name)
        with Site(folder) as site:
            for group in groups:
                found |= _one_machine(site, folder, group, GROUPS[group](), say)
    return found


def _one_machine(site: Site, folder: Path, group: str, stacks: Sequence[Stack], say: Say) -> dict[str, str]:
    """A machine with these stacks."""
    disks = [disk.make(folder, *one) for stack in stacks for one in stack.disks]
    with Machine(group, folder, disks=disks, memory_mib=MACHINE_MIB, cpus=2) as machine:
        say(f"{group}: machine booted in {machine.start():.0f} s")
        for stack in stacks:
            machine.sh(f"{stack.build}; {layers.MKFS[stack.fs]} {stack.top}; mkdir -p {stack.mount_point}")
        tops = [Watched(stack.name, stack.key, stack.top) for stack in stacks]
        found = Group(site, machine, group, stacks, say).prove(tops, is_below=False)
        below = [
            Watched(f"{stack.name}, disk {i + 1} below", name, layers.by_id(bus, name))
            for stack in stacks
            if stack.is_layered
            for i, (name, _, bus) in enumerate(stack.disks)
        ]
        if below:
            found |= Group(site, machine, f"{group}-below", stacks, say).prove(below, is_below=True)
    for one in disks:
        one.file.unlink()
    return found


class Group:
    """One scenario over some of a machine's devices."""

    def __init__(self, site: Site, machine: Machine, scenario: str, stacks: Sequence[Stack], say: Say) -> None:
        self._site, self._machine, self._scenario, self._stacks, self._say = site, machine, scenario, stacks, say

    def prove(self, watched: Sequence[Watched], is_below: bool) -> dict[str, str]:
        """Result per label. `is_below`: the stacks are taken down before the comparison, since their superblocks
        are written by whoever closes them."""
        disks = {one.key: one.device for one in watched}
        refused = self._site.protect(self._machine, self._scenario, disks).refusals()
        found = {one.label: f"refused: {refused[one.key]}" for one in watched if one.key in refused}
        taken = [one for one in watched if one.key not in refused]
        self._say(f"{self._scenario}: {len(taken)} devices watched, {len(found)} refused")
        return found | (self._prove(taken, is_below) if taken else {})

    def _prove(self, watched: Sequence[Watched], is_below: bool) -> dict[str, str]:
        self._site.start()
        disks = {one.key: one.device for one in watched}
        master = self._site.protect(self._machine, self._scenario, disks)
        begun = time.monotonic()
        self._mount()
        self._start_writer()
        master.start()
        report = master.wait_ordered()
        self._say(f"{self._scenario}: write order after {time.monotonic() - begun:.0f} s, {report['records']} records")
        self._machine.run("sleep", SETTLED_SECONDS)
        self._quiet(is_below)
        report = master.wait_ordered()
        losses = {name: count for one in report["disks"] for name, count in one["losses"].items() if count}
        captured = f"{report['records']} records, {show_bytes(report['payload_bytes'])}"
        self._say(f"{self._scenario}: quiet, {captured}, {losses or 'no losses'}")
        self._site.wait_applied(master.name)
        master.unload()
        self._site.stop()
        return self._compare(watched)

    def _mount(self) -> None:
        for stack in self._stacks:
            self._machine.run(
                "mount", "-o", "discard" if stack.fs == "ext4" else "noatime", stack.top, stack.mount_point
            )

    def _start_writer(self) -> None:
        """Two fio jobs a file system, page cache and O_DIRECT, small enough for an emulated CPU."""
        jobs = "".join(
            f"[{stack.key}-{mode}]\ndirectory={stack.mount_point}\ndirect={direct}\n"
            for stack in self._stacks
            for direct, mode in enumerate(("cached", "direct"))
        )
        self._machine.put(
            "/root/writer.fio",
            "[global]\nioengine=psync\nthread\nrw=randwrite\nbsrange=4k-128k\nsize=12m\ntime_based\nruntime=3600\n"
            f"rate_iops=8\nfsync=8\nrandrepeat=0\nrefill_buffers\n{jobs}",
        )
        self._machine.run(
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=lab-writer",
            "fio",
            "--output=/root/writer.log",
            "/root/writer.fio",
        )
        self._machine.wait_until(f"ls {' '.join(stack.mount_point + '/*cached*' for stack in self._stacks)}", 120)

    def _quiet(self, is_below: bool) -> None:
        self._machine.run("systemctl", "stop", "lab-writer")
        for stack in self._stacks:
            self._machine.call("fstrim", stack.mount_point)  # a stack without discard refuses it
            self._machine.run("umount", stack.mount_point)
        for stack in self._stacks if is_below else ():
            self._machine.sh(stack.remove)
        self._machine.run("sync")

    def _compare(self, watched: Sequence[Watched]) -> dict[str, str]:
        name = f"copy-{self._scenario}"
        copy = disk.make(self._site.folder, name, SLOT_BYTES * len(watched), "scsi")
        self._machine.attach(copy)
        sizes = [self._copy(one, i, copy.path) for i, one in enumerate(watched)]
        self._machine.detach(copy)
        found = {}
        for i, (one, size) in enumerate(zip(watched, sizes, strict=True)):
            image = self._site.image(self._scenario, one.key)
            why = why_not_equal(image, copy.file, i * SLOT_BYTES, size)
            found[one.label] = "equal" if why is None else f"different: {why}"
            self._say(f"    {one.label}: {found[one.label]}")
        copy.file.unlink()
        return found

    def _copy(self, one: Watched, slot: int, copy: str) -> int:
        """Writes a device to its slot of the copy, past the page cache on both sides. Its size in bytes."""
        size = int(self._machine.run("blockdev", "--getsize64", one.device))
        self._machine.run(
            *("dd", f"if={one.device}", f"of={copy}", "bs=1M", "iflag=direct", "oflag=direct", "conv=sparse,fsync"),
            *(f"seek={slot * SLOT_BYTES // MIB}", "status=none"),
            timeout=300,
        )
        return size
