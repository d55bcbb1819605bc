"""Drain: wait until every write submitted before now is on the disk.

A disk with a request queue, the safest way that it offers:

1. *Queue freeze*: storing another value into a queue attribute freezes the request queue until all requests in it are
   done, and thaws it again inside the same system call. A kill at any moment leaves at worst one request fewer in a
   queue of hundreds.
2. *File-system freeze* (FIFREEZE, FITHAW). Whoever is killed between the two calls leaves the master hanging, so a
   small process of its own session does it and nothing else (rha/capture/freezer.py).
3. *Waiting until `inflight` is 0*: for a raw device without either; may never happen under load, so it is bounded.

A bio-based disk (device mapper, md, zram) has no queue to freeze, but the probe keeps each of its writes until it ends
(csrc/flights.bpf.c): the engine turns the epoch over and waits for those of the one before. That holds under any load
and touches nothing. What the probe does not keep, writes that were on their way when it was loaded, is waited for once
after the load. Rejected: suspend and resume by device mapper, which stops a production master's writes for as long.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.capture import stack
from rha.capture.device import Device
from rha.capture.freeze import freeze_once
from rha.capture.mounts import MOUNTS, mounted
from rha.errors import DeviceError

_INFLIGHT_SECONDS, _POLL_SECONDS = 30.0, 0.002
_FLIGHT_SECONDS = 60.0  # twice the time after which the kernel begins to give a SCSI command up
_IDLE_SECONDS = 1.0
PROBE_SECONDS = 0.02  # longer than any run of the probe: microseconds, with preemption off


def drain(device: Device) -> str:
    """Waits until the writes submitted before the call are done. Returns the way that was taken, in a few words.

    Raises DeviceError when no way worked within its time.
    """
    if freeze_queue(device.queue):
        return "queue freeze"
    mounts = mount_points(device)
    if mounts:
        freeze_once(mounts)
        return "file-system freeze"
    wait_inflight(device)
    return "no requests in flight"


def freeze_queue(queue: Path) -> bool:
    """True when the queue was frozen and thawed, and so was empty for a moment.

    `nr_requests` is taken since storing it freezes the queue on every kernel since 4.x (blk_mq_update_nr_requests);
    the value has to change for that. False where the device has no such attribute or refuses another value.
    """
    attribute = queue / "nr_requests"
    try:
        before = int(attribute.read_text())
        for value in (before - 1, before):
            attribute.write_text(str(value))
    except (OSError, ValueError):
        return False
    return True


def mount_points(device: Device, file: Path = MOUNTS) -> list[str]:
    """One mount point of a file system on the device, or none. By the device's number, and by what it was mounted from:
    btrfs shows a number of its own."""
    for mount in mounted(file):
        if mount.numbers == device.numbers or _numbers(mount.source) == device.numbers:
            return [mount.point]
    return []


def _numbers(path: str) -> str:
    """`major:minor` of a block device; empty for what is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else ""


def wait_inflight(device: Device, seconds: float = _INFLIGHT_SECONDS) -> None:
    """Waits until no request is in flight on the whole disk: a partition's writes are counted on the partition.

    Raises DeviceError when that does not happen within `seconds`.
    """
    disk = device.queue.parent
    attributes = [disk / "inflight", *disk.glob(f"{disk.name}*/inflight")]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(int(number) for one in attributes for number in one.read_text().split()):
            return
        time.sleep(_POLL_SECONDS)
    raise DeviceError(
        f"{device.path} is never idle",
        cause=f"requests were in flight for {seconds} s, and its queue cannot be frozen",
        hint="mount a file system from it, or stop the writer during the sync",
    )


# Bio-based disks ----------------------------------------------------------------------------------------------


def settle(device: Device, slot: Any, check: Callable[[], None]) -> str:
    """Waits for writes that the probe does not keep. `slot`: the disk's part of the shared state; `check` is called
    again and again and may raise. Returns the way that was taken, for a sentence; empty when nothing was to wait for.

    Raises DeviceError.
    """
    since = int(slot["unsettled_ns"])
    if since <= int(slot["settled_ns"]):
        return ""
    way = _settle(device, since, check)
    slot["settled_ns"] = since
    return f"{way}, then "


def _settle(device: Device, since_ns: int, check: Callable[[], None]) -> str:
    if stack.ends_in_submission(device.queue.parent):
        return "none is ever on its way"
    if stack.read(device.queue / "iostats") == "1":  # else `inflight` stays 0
        try:
            wait_inflight(device, _IDLE_SECONDS)
            return "idle for a moment"
        except DeviceError:
            pass  # busy: the next way
    mounts = mount_points(device)
    if mounts:
        freeze_once(mounts)
        return "file-system freeze"
    while time.monotonic() < since_ns / 1e9 + _FLIGHT_SECONDS:
        check()
        time.sleep(_POLL_SECONDS)
    return f"{_FLIGHT_SECONDS:.0f} s of time"


def drain_flights(path: str, slot: Any, counters: Any, check: Callable[[], None]) -> None:
    """Waits until every write has ended that the probe saw before the call. `counters`: the disk's, one a CPU; `check`
    is called again and again and may raise.

    Raises DeviceError when one does not end in time.
    """
    for _ in range(2):  # the first turn shuts out new writes from what an earlier, failed drain left
        epoch = int(slot["epoch"])
        slot["epoch"] = 1 - epoch
        time.sleep(PROBE_SECONDS)  # a probe that read the old epoch has counted by now
        _wait_flights(path, counters, epoch, check)


def _wait_flights(path: str, counters: Any, epoch: int, check: Callable[[], None]) -> None:
    end = time.monotonic() + _FLIGHT_SECONDS
    while (flying := in_flight(counters, epoch)) > 0:
        check()
        if time.monotonic() > end:
            raise DeviceError(
                f"{flying} writes to {path} do not end",
                cause=f"they were submitted more than {_FLIGHT_SECONDS:.0f} s ago",
                hint="dmesg | tail; dmsetup info; cat /proc/mdstat",
            )
        time.sleep(_POLL_SECONDS)


def in_flight(counters: Any, epoch: int) -> int:
    """Writes that were submitted in the epoch and have not ended. `counters`: a disk's, one a CPU."""
    departed = int(counters["departed"][:, epoch].sum())  # first: an end is counted after its beginning
    return departed - int(counters["arrived"][:, epoch].sum())
