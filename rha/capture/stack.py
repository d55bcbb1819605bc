"""What a block device is made of, read from sysfs, and which of it the probe cannot follow.

Two things must hold for a watched device. Every write passes `block_bio_queue`, or a `block_bio_remap` of the same bio,
on it; and the end of every write is seen, at a request or at the bio that was submitted. Read from the sources of Linux
6.1 (block/blk-core.c, block/bio.c, drivers/md, drivers/nvme/host/multipath.c), and again when a kernel is added.
"""

from __future__ import annotations

import re
from pathlib import Path

from rha.errors import DeviceError

# Personalities that clone the bio, or keep it and end it themselves. Not linear and faulty: on 6.1 these pass the bio
# that was submitted on to the disk below, where its end is taken for that disk's.
_MD_LEVELS = {"raid0", "raid1", "raid4", "raid5", "raid6", "raid10"}
_MD_ALWAYS_CLONES = (6, 6)  # Linux commit c687297b8845: before it raid0 clones only while queue/iostats is 1


def read(path: Path, default: str = "") -> str:
    """The text of a sysfs attribute; `default` where the kernel does not have it. Raises OSError."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return default
    except OSError as error:
        if error.errno == 22:  # EINVAL: the attribute is there, but not for this kind of device
            return default
        raise


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of what uname says."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def ends_in_submission(disk: Path) -> bool:
    """True when a write ends inside the call that submits it (zram): none can be on its way to a medium."""
    return (disk / "mm_stat").exists()


def why_not_end(path: str, disk: Path, release: str) -> DeviceError | None:
    """The reason why the end of writes cannot be seen on the whole device with sysfs folder `disk`, or None."""
    if (disk / "mq").exists() or (disk / "dm").exists() or ends_in_submission(disk):
        return None  # requests; device mapper; zram
    if not (disk / "md").exists():
        return DeviceError(
            f"device {path} is of a kind that the probe does not know",
            cause=f"{disk.name} has no request queue, and is neither device mapper, md nor zram",
            hint=f"watch the disks below it: lsblk -s {path}",
        )
    level = read(disk / "md" / "level")
    if level not in _MD_LEVELS:
        return DeviceError(
            f"device {path} is an md array of level {level or 'unknown'}",
            cause="it hands writes to the disks below and does not see how they end",
            hint=f"watch the disks below it: lsblk -s {path}",
        )
    if level == "raid0" and kernel_version(release) < _MD_ALWAYS_CLONES and read(disk / "queue" / "iostats") == "0":
        return DeviceError(
            f"the end of writes to {path} cannot be seen",
            cause=f"md raid0 of Linux {release} reports it only while it counts I/O",
            hint=f"echo 1 > /sys/block/{disk.name}/queue/iostats",
        )
    return None


def why_not_begin(path: str, node: Path, disk: Path) -> DeviceError | None:
    """The reason why writes can reach the device unseen, or None. `node`: sysfs folder of the device, `disk`: of the
    whole disk, which may be the same."""
    if read(disk / "queue" / "dax", "0") == "1":
        return DeviceError(
            f"device {path} can be written past the block layer (DAX)",
            cause="a file system mounted with -o dax lets programs store into it directly",
            hint="use the device without DAX (ndctl create-namespace --mode=sector)",
        )
    if disk.name.startswith("bcache") or any(node.glob("bcache")) or any(node.glob("*/bcache")):
        return DeviceError(
            f"device {path} belongs to bcache",
            cause="a bcache device that loses its cache hands writes down without any event, and does not see them end",
            hint="protect what is in it by files, or move it off bcache",
        )
    above = [holder.name for holder in node.glob("holders/*") if (holder.resolve() / "mq").exists()]
    if above:
        return DeviceError(
            f"device {path} is a path of {', '.join(above)}",
            cause="request-based multipath hands requests down; the writes in them pass no probe on the path",
            hint=f"watch /dev/{above[0]}",
        )
    return None
