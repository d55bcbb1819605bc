"""On which block devices a file lies: every one from its file system down to the disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rha.capture.device import SYS_BLOCK, Device, lookup
from rha.capture.mounts import Mount, mounted
from rha.errors import DeviceError, RhaError, StorageError

# File systems without a disk of this host below them.
_DISKLESS = ("tmpfs", "ramfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph")
_LOOP_GET_STATUS64, _LOOP_INFO_BYTES = 0x4C05, 232  # include/uapi/linux/loop.h
_BTRFS = Path("/sys/fs/btrfs")


def why_not_beside(path: Path, watched: Iterable[Device]) -> RhaError | None:
    """The reason why a file at `path` would be written to one of these devices, or None.

    What the engine writes there would be captured, shipped and written again.
    """
    try:
        below = devices_below(path.parent)
    except (RhaError, OSError) as error:
        cause = error.cause if isinstance(error, RhaError) else str(error)
        return StorageError(f"it is not known on which disks {path} would lie", cause=cause, hint="choose another path")
    for device in watched:
        for other in below:
            if device.overlaps(other.dev, other.start, other.sectors):
                return StorageError(
                    f"{path} would lie on a protected disk",
                    cause=f"its folder is on {other.path}, and {device.path} is watched",
                    hint="put the spool on another disk, or leave it out",
                )
    return None


def devices_below(folder: Path) -> list[Device]:
    """All devices that carry a folder's file system, those between them and the disks included; none for memory and
    network file systems.

    Raises StorageError when that cannot be told, OSError when the folder is missing.
    """
    number = os.stat(folder).st_dev
    found: dict[str, Device] = {}
    for name in _of_file_system(folder, f"{os.major(number)}:{os.minor(number)}"):
        _descend(name, found)
    return list(found.values())


def _of_file_system(folder: Path, number: str) -> Iterator[str]:
    """`major:minor` of the devices of a folder's file system, which stat calls `number`."""
    if (SYS_BLOCK / number).exists():
        yield number
        return
    kind, source = _mount(folder.resolve())
    if kind == "btrfs":
        yield from _of_btrfs(source)
    elif kind not in _DISKLESS:
        raise StorageError("unknown disks", cause=f"a file system of type {kind} does not say on which disks it is")


def devices_of(mount: Mount) -> list[Device]:
    """All devices that carry a mounted file system, as `devices_below`; none when it is on no block device of its own.

    Raises StorageError when that cannot be told, OSError when something vanishes meanwhile.
    """
    found: dict[str, Device] = {}
    if (SYS_BLOCK / mount.numbers).exists():
        _descend(mount.numbers, found)
    elif mount.kind == "btrfs":
        for number in _of_btrfs(mount.source):
            _descend(number, found)
    return list(found.values())


def mounts_over(watched: Iterable[Device]) -> list[str]:
    """One mount point of each file system that lies on one of these devices, or of which that is not known, in the
    order of mounting. None of the mounts is touched: one whose server hangs (NFS, FUSE) would keep us for ever."""
    devices, found = list(watched), dict[str, str]()
    for mount in mounted():
        if mount.numbers not in found and _may_lie_on(devices, mount):
            found[mount.numbers] = mount.point
    return list(found.values())


def _may_lie_on(devices: list[Device], mount: Mount) -> bool:
    try:
        below = devices_of(mount)
    except StorageError:
        return True
    except OSError:  # a loop device whose file was removed: it lies on nothing that has a name
        return False
    return any(device.overlaps(one.dev, one.start, one.sectors) for device in devices for one in below)


def type_of(folder: Path) -> str:
    """The type of the file system that a folder lies on, as the kernel calls it."""
    return _mount(folder.resolve())[0]


def _mount(folder: Path) -> tuple[str, str]:
    """Type and source of the file system that is mounted over a folder. By its path: btrfs shows stat another number
    than its mount has."""
    best, found = -1, ("", "")
    for mount in mounted():
        point = Path(mount.point)
        if folder.is_relative_to(point) and len(point.parts) >= best:  # the later of two on one point is the upper one
            best, found = len(point.parts), (mount.kind, mount.source)
    return found


def _of_btrfs(source: str) -> Iterator[str]:
    """All devices of the btrfs that `source` is one device of."""
    mine = Path(source).resolve().name
    for folder in _BTRFS.glob("*/devices"):
        names = [entry.name for entry in folder.iterdir()]
        if mine in names:
            yield from ((folder / name / "dev").read_text().strip() for name in names)
            return
    raise StorageError("unknown disks", cause=f"no btrfs in {_BTRFS} has {source}")


def _descend(number: str, found: dict[str, Device]) -> None:
    if number in found:
        return
    node = (SYS_BLOCK / number).resolve()
    try:
        device = found[number] = lookup(f"/dev/{node.name.replace('!', '/')}")
    except DeviceError as error:
        raise StorageError("unknown disks", cause=f"{error.what}: {error.cause}") from error
    for slave in (device.queue.parent / "slaves").glob("*"):
        _descend((slave / "dev").read_text().strip(), found)
    backing = device.queue.parent / "loop/backing_file"
    if backing.exists():
        for below in _below_loop(device, Path(backing.read_text().strip())):
            found.setdefault(below.numbers, below)


def _below_loop(device: Device, file: Path) -> list[Device]:
    """What carries a loop device's file; also when that, and its folder, have been deleted."""
    with contextlib.suppress(FileNotFoundError):
        return devices_below(file.parent)
    with open(device.path, "rb") as loop:
        status = fcntl.ioctl(loop, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES))
    on = int.from_bytes(status[:8], sys.byteorder)  # lo_device, as stat shows it
    number = f"{os.major(on)}:{os.minor(on)}"
    for mount in mounted():
        if mount.numbers == number:
            return devices_of(mount)
    raise StorageError("unknown disks", cause=f"{device.path}: its file {file} is on no file system mounted here")
