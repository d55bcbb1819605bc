"""Which mounted file systems lie on watched disks: on them, on their partitions, or on what is stacked above."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from rha.capture import location, mounts
from rha.capture.device import Device
from rha.capture.mounts import Mount
from rha.errors import DeviceError, RhaError

ATTEMPTS = 3  # a mount that is not ours may come or go while we look

UNFREEZABLE = ("vfat", "msdos", "exfat", "ntfs3", "udf")  # no freeze_fs in their super operations


class FileSystem(NamedTuple):
    """`mounts`: all of this namespace's; `depth`: how many devices are below it. One that lies on another (a loop file)
    has more of them."""

    mounts: list[Mount]
    depth: int

    @property
    def point(self) -> str:
        """Where people know it."""
        return min((mount.point for mount in self.mounts), key=len)


def file_systems_on(watched: Sequence[Device]) -> list[FileSystem]:
    """Those that can be written to, the uppermost first: what is frozen in this order never waits for what lies below.

    Raises DeviceError when of one it cannot be told where it lies.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _look(watched, mounts.mounted())
        except (RhaError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                cause = error.cause if isinstance(error, RhaError) else str(error)
                raise DeviceError(
                    "which file systems lie on the disks is not known", cause=cause, hint="lsblk"
                ) from error
    raise AssertionError("unreachable")


def _look(watched: Sequence[Device], found: list[Mount]) -> list[FileSystem]:
    together: dict[str, list[Mount]] = {}
    for mount in found:
        if mount.is_writable:
            together.setdefault(mount.numbers, []).append(mount)
    below = {numbers: location.devices_of(same[0]) for numbers, same in together.items()}
    ours = [
        FileSystem(together[numbers], len(devices)) for numbers, devices in below.items() if _touches(watched, devices)
    ]
    return sorted(ours, key=lambda one: -one.depth)


def _touches(watched: Sequence[Device], devices: list[Device]) -> bool:
    return any(disk.overlaps(other.dev, other.start, other.sectors) for disk in watched for other in devices)


@contextlib.contextmanager
def opened(systems: Sequence[FileSystem]) -> Iterator[list[int]]:
    """A directory, or file, of each, open. Raises DeviceError when every mount of one is hidden below another."""
    with ExitStack() as stack:
        found = []
        for system in systems:
            found.append(_open(system))
            stack.callback(os.close, found[-1])
        yield found


def _open(system: FileSystem) -> int:
    for mount in system.mounts:
        with contextlib.suppress(OSError):
            directory = os.open(mount.point, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a bind may be a file
            if _mount_id(directory) == mount.id:
                return directory
            os.close(directory)
    cause = "something else is mounted over it"
    raise DeviceError(f"the file system of {system.point} cannot be reached", cause=cause, hint="findmnt")


def _mount_id(directory: int) -> int:
    """proc_pid_fdinfo(5)"""
    with open(f"/proc/self/fdinfo/{directory}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
