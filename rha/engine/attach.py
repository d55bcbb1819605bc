"""How an engine comes by its probe: adopts the one that runs, or loads it, and knows why it had to."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from rha.capture import pins, probe, shared
from rha.capture.capture import Capture, Misfit
from rha.capture.device import Device, lookup, why_not
from rha.engine import lastrun
from rha.engine.history import folder_of
from rha.engine.state import Cause
from rha.errors import DeviceError
from rha.scenario import Scenario

RING_LIMITS = (4 << 20, 2 << 30)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Attached(NamedTuple):
    """`cause`: why every disk must be compared; None when the running probe was adopted. `sentence` says which."""

    capture: Capture
    cause: Cause | None
    sentence: str


def ring_bytes(scenario: Scenario) -> int:
    """Size of the ring: the scenario's, else 1/16 of RAM; a power of two from 4 MiB to 2 GiB."""
    wanted = int(scenario.capture.ring or _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES") // 16)
    smallest, largest = RING_LIMITS
    return 1 << max(smallest, min(wanted, largest)).bit_length() - 1


def attach(scenario: Scenario) -> Attached:
    """The running capture of the scenario, adopted or newly loaded. Raises DeviceError, HostError."""
    for disk in scenario.disk:
        if error := why_not(disk.device):
            raise error
    devices = [lookup(disk.device) for disk in scenario.disk]
    _refuse_overlap(scenario.name, devices)
    _refuse_watched(scenario.name, devices)
    misfit = _why_not_read(scenario.name)
    if misfit is None:
        capture = Capture(scenario.name, devices)
        misfit = capture.misfit()
        if misfit is None:
            return Attached(capture, None, "adopted the probe that was running: nothing was missed meanwhile")
        capture.close()
    pins.remove(scenario.name)
    probe.load(
        probe.Specification(scenario=scenario.name, devices=[d.path for d in devices], ring_bytes=ring_bytes(scenario))
    )
    cause = Cause(misfit.reason, misfit.evidence, time.time())
    return Attached(Capture(scenario.name, devices), cause, f"loaded the probe: {cause.sentence}")


def _why_not_read(scenario: str) -> Misfit | None:
    """Why there is no probe in the kernel that this version understands; None when there is."""
    if pins.exist(scenario):
        layout = pins.layout(scenario)
        if layout == shared.LAYOUT:
            return None
        return Misfit("probe-reload", f"its layout is {layout}, this version has {shared.LAYOUT}")
    last, now = lastrun.load(folder_of(scenario)), lastrun.boot_id()
    evidence = "" if last is None else f"boot {last.boot_id[:8]} then, {now[:8]} now"
    return Misfit(lastrun.why_no_pins(last, now), evidence)


def _refuse_overlap(name: str, devices: list[Device]) -> None:
    """Two disks of one scenario must not be the same device, or a disk and its own partition: one write would be two
    records."""
    for i, one in enumerate(devices):
        for other in devices[:i]:
            if one.overlaps(other.dev, other.start, other.sectors):
                raise DeviceError(
                    f"{one.path} and {other.path} of scenario {name} overlap",
                    cause="one holds the other, or they are the same device",
                    hint="keep one of them",
                )


def _refuse_watched(name: str, devices: list[Device]) -> None:
    """One disk has one scenario: a second would cost a second copy of each write, and two images of one truth."""
    for other in pins.scenarios():
        if other == name:
            continue
        for slot in pins.watched(other):
            for device in devices:
                # Another sequence number: that probe waits for a device that is gone, this one has its number now.
                if device.diskseq == slot.diskseq and device.overlaps(slot.dev, slot.start, slot.sectors):
                    raise DeviceError(
                        f"{device.path} is watched by scenario {other} already",
                        cause="a disk belongs to one scenario",
                        hint=f"take it out of one of them; a probe left behind: rha engine --unload --scenario "
                        f"/etc/rha/{other}.toml",
                    )
