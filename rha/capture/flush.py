"""Puts on the disk what the kernel still holds of it in memory: file systems first, then the devices themselves.

Needed where the disk's content must be what the applications have written, not only what they have synced: before a
service is handed over. A freeze comes last, as it also empties the journals of ext4 and xfs: what boots has next to
nothing to recover. By then little is left to write, so it stands still for moments only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from rha.capture.device import Device
from rha.capture.freeze import freeze_once
from rha.capture.location import mounts_over
from rha.errors import DeviceError
from rha.units import show_seconds

SYNC_SECONDS = 600.0  # gigabytes of dirty pages on a slow disk


def flush(devices: Sequence[Device]) -> list[str]:
    """Returns what was done, in sentences. Raises DeviceError when something cannot be written."""
    mounts = mounts_over(devices)
    if mounts:
        _sync("--file-system", *mounts)
    _sync(*(device.path for device in devices))
    return [f"written out: {', '.join([*mounts, *(device.path for device in devices)])}", *_frozen(mounts)]


def _sync(*words: str) -> None:
    """sync(1), of GNU: its end is ours, whatever a disk does meanwhile."""
    try:
        done = subprocess.run(["sync", *words], capture_output=True, text=True, timeout=SYNC_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        cause = f"not done after {show_seconds(SYNC_SECONDS)}"
        raise DeviceError(f"{' '.join(words)} cannot be written out", cause=cause, hint="dmesg | tail") from error
    if done.returncode:
        raise DeviceError(f"{' '.join(words)} cannot be written out", cause=done.stderr.strip(), hint="dmesg | tail")


def _frozen(mounts: Sequence[str]) -> list[str]:
    """Not every file system can be frozen; what is on the disk is whole without it, too. Which were not is said."""
    done, not_done = list[str](), list[str]()
    for mount in mounts:
        try:
            freeze_once([mount])
            done.append(mount)
        except DeviceError as error:
            not_done.append(f"{mount} was not frozen ({error.cause or error.what})")
    return [*([f"frozen for a moment: {', '.join(done)}"] if done else []), *not_done]
