"""An image that lies on a block device of its own. In the scenario's folder it is a link, `images/DISK.raw`, and beside
it `images/DISK.device` says which device that was: after a reboot another one may have its name.

What a new device holds nobody knows, so its image begins as one that must be compared, not as one of zeros: every block
is judged by its digest, and what differs is sent, zeros too. Rejected: zeroing it first, which on a large disk takes
longer than an engine waits for its welcome, and has to be done again after a crash.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.capture.device import Device, is_read_only, lookup
from rha.capture.stack import read
from rha.errors import DeviceError, StateError
from rha.units import show_bytes

# What tells a device from another one under the same name, the first that it has.
_NAMES = ("dm/uuid", "md/uuid", "wwid", "device/wwid", "device/serial", "serial", "loop/backing_file")


class Known(msgspec.Struct, kw_only=True, frozen=True):
    """The device that was begun on. `identity`: from the kernel; empty where it gives none. `start`: its first sector
    on the whole disk."""

    device: str
    identity: str
    start: int


def begin(link: Path, path: str, size: int) -> None:
    """Takes a device for a disk of `size` bytes; what it holds will be overwritten.

    Raises DeviceError when it cannot be taken, StateError when the disk has an image already.
    """
    if link.exists() and not link.is_symlink():
        raise StateError(
            f"{link} is there already", cause="an image in a file", hint=f"move {link.parent.parent} aside"
        )
    device = _usable(path, size)
    _must_be_free(path)
    catalog.save(_note(link), Known(device=path, identity=identity(device), start=device.start))
    link.unlink(missing_ok=True)
    link.symlink_to(path)


def go_on(link: Path, path: str, size: int) -> None:
    """Raises DeviceError when the device is not, or is not any more, the one that the image was begun on."""
    known = catalog.load(_note(link), Known)
    if known is None or not link.is_symlink():
        cause = "the scenario was begun with another place for it"
        raise StateError(f"{path} does not hold the image", cause=cause, hint=f"move {link.parent.parent} aside")
    device = _usable(path, size)
    if (identity(device), device.start) != (known.identity, known.start):
        cause = (
            f"the image was begun on {known.identity or known.device}, this is {identity(device) or 'without a name'}"
        )
        raise DeviceError(
            f"{path} is another device", cause=cause, hint="ls -l /dev/disk/by-id; lsblk -o NAME,SERIAL,WWN"
        )


def identity(device: Device) -> str:
    disk = device.queue.parent
    return next((f"{name} {text}" for name in _NAMES if (text := read(disk / name, ""))), "")


def _note(link: Path) -> Path:
    return link.with_suffix(".device")


def _usable(path: str, size: int) -> Device:
    device = lookup(path)
    if device.bytes < size:
        cause = f"{show_bytes(device.bytes)}, the master's disk has {show_bytes(size)} ({size} bytes)"
        raise DeviceError(f"target {path} is too small", cause=cause, hint="lvextend, or another device")
    if is_read_only(device):
        raise DeviceError(f"target {path} is read-only", hint=f"blockdev --setrw {path}")
    return device


def _must_be_free(path: str) -> None:
    """Raises DeviceError when it is mounted, or a part of something else: the kernel knows (open(2), O_EXCL)."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        cause = "it is mounted, or a part of something else" if error.errno == errno.EBUSY else error.strerror or ""
        raise DeviceError(f"target {path} cannot be taken", cause=cause, hint=f"lsblk {path}") from error
