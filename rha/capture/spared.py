"""Where a file lies on a watched disk, so that the probe can leave out the engine's own writes to it.

Unwritten extents will do: a write to one goes to the place that it shows already, and what changes then is the file
system's metadata, which is captured like any other. What a file system would write elsewhere (shared, compressed, with
data in the metadata) is refused.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rha.capture.device import Device
from rha.capture.location import devices_below, type_of
from rha.errors import StorageError

MAX_RANGES = 64  # RHA_MAX_SPARED
BLOCK_SECTORS = 128  # of the bitmaps: only whole blocks are spared, so that a comparison can leave out just those
LEAST_SHARE = 0.9  # of the file: what is not spared is captured and spooled once more
_FS_IOC_FIEMAP, _FS_IOC_GETVERSION = 0xC020660B, 0x80087601  # include/uapi/linux/fs.h
_SYNC = 1  # FIEMAP_FLAG_SYNC
_HEAD, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQ16xI12x")  # include/uapi/linux/fiemap.h
_EXTENTS = 4096
_HARMLESS = 0x0001 | 0x0800 | 0x1000  # FIEMAP_EXTENT_LAST, _UNWRITTEN, _MERGED
_IN_PLACE = ("ext4", "xfs")  # file systems that write over a block where it is

Range = tuple[int, int]


class Spared(NamedTuple):
    """A file on watched disk `disk` (index): inode and its generation number, and the sectors of the whole disk,
    [begin, end) ascending, in whole bitmap blocks."""

    disk: int
    inode: int
    version: int
    ranges: tuple[Range, ...]


def volume_of(path: Path, watched: list[Device]) -> tuple[Device, int]:
    """The volume on which a file at `path` would lie, and the index of the watched disk which that is, or is on.

    Raises StorageError when writes to the file could go elsewhere, OSError.
    """
    if (kind := type_of(path.parent)) not in _IN_PLACE:
        raise _refused(path, f"{kind} may write over a block somewhere else; {' and '.join(_IN_PLACE)} do not")
    below = devices_below(path.parent)
    volume, over = below[0], _overlapped(watched, below)
    if len(over) != 1 or over != _overlapped(watched, [volume]) or volume.is_bio_based:
        raise _refused(path, "between its file system and the protected disk are other devices")
    return volume, over[0]


def _overlapped(watched: list[Device], others: list[Device]) -> list[int]:
    return [i for i, disk in enumerate(watched) if any(disk.overlaps(d.dev, d.start, d.sectors) for d in others)]


def locate(file: int, path: Path, watched: list[Device]) -> Spared:
    """Where an open file lies on one of the watched disks.

    Raises StorageError when that is not known or may change with a write, OSError.
    """
    volume, index = volume_of(path, watched)
    disk = watched[index]
    extents = [(volume.start + at // 512, volume.start + (at + length) // 512) for at, length in _extents(file, path)]
    ranges = blocks_of(extents, disk.start)
    if sum(end - begin for begin, end in ranges) * 512 < os.fstat(file).st_size * LEAST_SHARE:
        raise _refused(path, f"it lies in {len(extents)} pieces: too much of it could not be left out")
    version = array.array("l", [0])
    fcntl.ioctl(file, _FS_IOC_GETVERSION, version)
    return Spared(index, os.fstat(file).st_ino, version[0] & 0xFFFF_FFFF, ranges)


def blocks_of(extents: Iterable[Range], start: int) -> tuple[Range, ...]:
    """The whole bitmap blocks, counted from sector `start`, inside of extents; neighbours joined, the largest
    MAX_RANGES."""
    joined: list[Range] = []
    for begin, end in sorted(extents):
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    whole = []
    for begin, end in joined:
        first, last = -(-(begin - start) // BLOCK_SECTORS), (end - start) // BLOCK_SECTORS
        if first < last:
            whole.append((start + first * BLOCK_SECTORS, start + last * BLOCK_SECTORS))
    largest = sorted(whole, key=lambda one: one[0] - one[1])[:MAX_RANGES]
    return tuple(sorted(largest))


def _extents(file: int, path: Path) -> list[Range]:
    """(physical byte, length) of the whole file, by FIEMAP after a sync. Raises StorageError, OSError."""
    room = bytearray(_HEAD.size + _EXTENTS * 56)
    _HEAD.pack_into(room, 0, 0, (1 << 64) - 1, _SYNC, 0, _EXTENTS, 0)
    fcntl.ioctl(file, _FS_IOC_FIEMAP, room)
    count = _HEAD.unpack_from(room)[3]
    found, reached, last = [], 0, 0
    for i in range(count):
        logical, physical, length, flags = _EXTENT.unpack_from(room, _HEAD.size + i * 56)
        if logical != reached or flags & ~_HARMLESS:
            raise _refused(
                path, f"at byte {reached} it has a hole, or a piece of a kind (flags {flags:#x}) that may move"
            )
        found.append((physical, length))
        reached, last = logical + length, flags
    if reached < os.fstat(file).st_size or not last & 1:
        raise _refused(path, f"only {reached} bytes of it have a place, in {count} pieces")
    return found


def _refused(path: Path, cause: str) -> StorageError:
    return StorageError(f"{path} cannot lie on a protected disk", cause=cause, hint="put the spool on another disk")
