"""On which block devices a file lies: every one from its file system down to the disks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rha.capture.device import SYS_BLOCK, Device, lookup
from rha.errors import DeviceError, RhaError, StorageError

# File systems without a disk of this host below them.
_DISKLESS = ("tmpfs", "ramfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph")
_MOUNTS = Path("/proc/self/mountinfo")
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


def mounts_over(watched: Iterable[Device]) -> list[str]:
    """One mount point of each file system that lies on one of these devices, in the order of mounting.

    Raises StorageError when of a file system on block devices it is not known on which.
    """
    devices, found = list(watched), dict[str, str]()
    for line in _MOUNTS.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        number, point = fields.split()[2], _plain(fields.split()[4])
        if number in found or not rest.split()[1].startswith("/"):
            continue
        try:
            below = devices_below(Path(point))
        except OSError:  # unmounted meanwhile, or out of sight below another mount
            continue
        if any(device.overlaps(one.dev, one.start, one.sectors) for device in devices for one in below):
            found[number] = point
    return list(found.values())


def type_of(folder: Path) -> str:
    """The type of the file system that a folder lies on, as the kernel calls it."""
    return _mount(folder.resolve())[0]


def _mount(folder: Path) -> tuple[str, str]:
    """Type and source of the file system that is mounted over a folder (proc_pid_mountinfo(5)). By its path: btrfs
    shows stat another number than its mount has."""
    best, found = -1, ("", "")
    for line in _MOUNTS.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(_plain(fields.split()[4]))
        if folder.is_relative_to(point) and len(point.parts) >= best:  # the later of two on one point is the upper one
            kind, source = rest.split()[:2]
            best, found = len(point.parts), (kind, source)
    return found


def _plain(field: str) -> str:
    """mountinfo writes blanks and backslashes as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


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
        for below in devices_below(Path(backing.read_text().strip()).parent):
            found.setdefault(below.numbers, below)
