"""A block device as the probe must know it, and the reasons why one cannot be watched."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from rha.capture import stack
from rha.capture.stack import read
from rha.errors import DeviceError, RhaError

SYS_BLOCK = Path("/sys/dev/block")
_BLKGETSIZE64 = 0x80081272
_EXT_MAX_LOG_BLOCK = 6  # blocks of 64 KiB (EXT4_MAX_BLOCK_LOG_SIZE counts from 1 KiB)


class Device(NamedTuple):
    """`dev`: major << 20 | minor of the whole disk; `start` and `sectors` in 512 B units of that disk; `diskseq` tells
    it from an earlier device of the same number (0 where the kernel has none); `sys` the folder of the device itself,
    `queue` that of its queue."""

    path: str
    dev: int
    start: int
    sectors: int
    diskseq: int
    sys: Path
    queue: Path

    @property
    def bytes(self) -> int:
        return self.sectors * 512

    def overlaps(self, dev: int, start: int, sectors: int) -> bool:
        """True when the part [start, start + sectors) of whole disk `dev` shares a sector with this device."""
        return self.dev == dev and self.start < start + sectors and start < self.start + self.sectors

    @property
    def is_bio_based(self) -> bool:
        """True when it has no request queue: bios go to its driver as they are (device mapper, md, zram)."""
        return not (self.queue.parent / "mq").exists()

    @property
    def numbers(self) -> str:
        """`major:minor` of the device itself, as in /proc/self/mountinfo."""
        return read(self.sys / "dev")


def lookup(path: str | Path) -> Device:
    """The device behind a path (symbolic links followed).

    Raises DeviceError when it is missing or not a block device.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DeviceError(f"device {path} is missing", cause=error.strerror or str(error), hint="lsblk") from error
    if not stat.S_ISBLK(status.st_mode):
        raise DeviceError(f"{path} is not a block device", cause="wrong kind of file", hint="lsblk -o PATH,SIZE,TYPE")
    node = (SYS_BLOCK / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()
    is_partition = (node / "partition").exists()
    disk = node.parent if is_partition else node
    major, minor = map(int, read(disk / "dev").split(":"))
    return Device(
        path=str(path),
        dev=major << 20 | minor,
        start=int(read(node / "start", "0")),
        sectors=int(read(node / "size", "0")),
        diskseq=int(read(disk / "diskseq", "0")),
        sys=node,
        queue=disk / "queue",
    )


def is_read_only(device: Device) -> bool:
    """True when the kernel lets nobody write to the device."""
    return read(device.sys / "ro") == "1"


def why_not(path: str | Path) -> RhaError | None:
    """The reason why this device cannot be watched, or None. Reads the device, writes nothing."""
    try:
        device = lookup(path)
        with open(path, "rb") as node:
            size = struct.unpack("Q", fcntl.ioctl(node, _BLKGETSIZE64, bytes(8)))[0]
            return _why_not(device, size, file_system_bytes(node.read(1 << 17)))
    except DeviceError as error:
        return error
    except OSError as error:
        return DeviceError(f"device {path} cannot be read", cause=str(error), hint=f"dd if={path} of=/dev/null count=1")


def _why_not(device: Device, size: int, used: int) -> RhaError | None:
    path = device.path
    if size == 0:
        return DeviceError(f"device {path} is empty", cause="its size is 0", hint="lsblk")
    if size % 512 or size != device.bytes:
        return DeviceError(
            f"device {path} changes its size", cause=f"{size} against {device.bytes} bytes", hint="lsblk"
        )
    if is_read_only(device):
        return DeviceError(
            f"device {path} is read-only", cause="nothing can change on it", hint=f"blockdev --setrw {path}"
        )
    zoned = read(device.queue / "zoned", "none")
    if zoned != "none":
        return DeviceError(
            f"device {path} is zoned ({zoned})",
            cause="a zone append gets its place on the device, so the probe cannot know it",
            hint="protect the file system's other devices, or move the data to a conventional disk",
        )
    disk = device.queue.parent
    if error := stack.why_not_begin(path, device.sys, disk) or stack.why_not_end(path, disk, os.uname().release):
        return error
    if used > size:
        return DeviceError(
            f"device {path} is smaller than its file system",
            cause=f"{size} bytes of device, {used} bytes of file system: part of it lies elsewhere",
            hint="watch the device that the file system is mounted from (findmnt -no SOURCE DIR)",
        )
    return None


def file_system_bytes(head: bytes) -> int:
    """Length in bytes of the ext2/3/4, xfs or btrfs file system that begins with `head` (128 KiB); 0 when none is
    known.

    Superblock layouts: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, fs/btrfs (include/uapi/linux/btrfs_tree.h). A btrfs
    of several devices counts the bytes of this device.
    """
    if len(head) >= 2048 and head[1024 + 56 : 1024 + 58] == b"\x53\xef":
        blocks, log_block = struct.unpack_from("<I", head, 1024 + 4)[0], struct.unpack_from("<I", head, 1024 + 24)[0]
        if log_block > _EXT_MAX_LOG_BLOCK:
            return 0  # damaged: the kernel would not mount it
        if struct.unpack_from("<I", head, 1024 + 96)[0] & 0x80:  # INCOMPAT_64BIT: s_blocks_count_hi is valid
            blocks |= struct.unpack_from("<I", head, 1024 + 336)[0] << 32
        return int(blocks << (10 + log_block))
    if len(head) >= 512 and head[:4] == b"XFSB":
        block, count = struct.unpack_from(">IQ", head, 4)
        return int(block * count)
    at = 0x10000
    if len(head) >= at + 4096 and head[at + 64 : at + 72] == b"_BHRfS_M":
        return int(struct.unpack_from("<Q", head, at + 0xC9 + 8)[0])  # dev_item.total_bytes
    return 0
