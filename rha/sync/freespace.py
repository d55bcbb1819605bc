"""What the mounted file systems of a disk hold for free: ranges whose content nobody can read again.

Asked by FS_IOC_GETFSMAP (include/uapi/linux/fsmap.h), which ext4 and xfs answer from memory, from just the structures
that they allocate from. Only what is *said to be free* counts; all the rest of the disk is used: other file systems,
partitions that are not mounted, the gaps between them, what lies below device mapper.

The map is of one moment. It holds for a sync whose stream began before: a range that was free then and is written
later is in the stream. One thing is done after the map was read: the file system is synced. In xfs an extent is free
in memory before the log says so on the disk; cut off in between, the file would be there again, and its content must
be. After the sync every state of the disk knows that the range is free. (ext4 keeps such blocks out of the map
itself, in `ext4_mb_generate_from_freed`; syncing costs it little.)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rha.capture.device import Device
from rha.capture.mounts import Mount, mounted
from rha.capture.stack import read
from rha.sync.plan import BLOCK_BYTES
from rha.units import show_bytes

_GETFSMAP = 0xC0C0583B  # _IOWR('X', 59, struct fsmap_head)
_HEAD, _RECORD = struct.Struct("<IIII48x"), struct.Struct("<IIQQQQ24x")
_RECORDS_AT = _HEAD.size + 2 * _RECORD.size
_RECORDS_A_CALL = 1024
_OWNER_FREE, _SPECIAL_OWNER, _LAST = 1, 0x10, 0x20
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_SECTOR = 512

Range = tuple[int, int]  # offset, length in bytes


class Part(NamedTuple):
    """A piece of a disk that may hold a file system: itself or a partition. `offset` in bytes from the disk's start."""

    name: str
    numbers: str
    offset: int


class FreeSpace(NamedTuple):
    """`ranges` of the disk that are free, ascending, apart from each other; `sentence`: who said so, and what could not
    be asked."""

    ranges: list[Range]
    sentence: str


class _Unanswered(Exception):
    """Why a file system's map cannot be used, in a few words."""


def look(device: Device, check: Callable[[], None] = lambda: None) -> FreeSpace:
    """The free ranges of a disk now. `check` is called while a file system is synced, and may raise to give up.

    Never fails for a disk that cannot say: then nothing is free, and the sentence says why.
    """
    mounts = mounted()
    found: list[Range] = []
    said = []
    for part in parts(device):
        for mount in (one for one in mounts if one.numbers == part.numbers or _names(one.source, part.numbers)):
            try:
                ranges = _ask(mount, part, check)
            except _Unanswered as why:
                said.append(f"{mount.kind} on {part.name}: {why}")
                continue
            free = sum(length for _, length in ranges)
            said.append(f"{mount.kind} on {part.name}: {show_bytes(free)} free")
            found += [(part.offset + offset, length) for offset, length in ranges]
            break
    return FreeSpace(merged(found, device.bytes), "; ".join(dict.fromkeys(said)) or "no file system is mounted from it")


def _ask(mount: Mount, part: Part, check: Callable[[], None]) -> list[Range]:
    if mount.numbers != part.numbers:
        raise _Unanswered("it does not tell its free space by device")
    with _opened(mount) as directory:
        try:
            ranges = list(_fsmap(directory, part.numbers))
        except OSError as error:
            raise _Unanswered(f"it does not tell its free space ({errno.errorcode.get(error.errno or 0)})") from error
        _sync(directory, check)
    return ranges


@contextlib.contextmanager
def _opened(mount: Mount) -> Iterator[int]:
    """Any directory of the file system; what is mounted over it must not answer in its place."""
    try:
        directory = os.open(mount.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _Unanswered(f"{mount.point}: {error.strerror}") from error
    try:
        device = os.fstat(directory).st_dev
        if f"{os.major(device)}:{os.minor(device)}" != mount.numbers:
            raise _Unanswered(f"something else is mounted over {mount.point}")
        yield directory
    finally:
        os.close(directory)


def _fsmap(directory: int, numbers: str) -> Iterator[Range]:
    """The free ranges of the part of the file system that is on this device. Raises OSError."""
    major, minor = map(int, numbers.split(":"))
    device = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12  # new_encode_dev()
    highest = _RECORD.pack(_U32, _U32, _U64, _U64, _U64, 0)
    lowest = bytes(_RECORD.size)
    while True:
        buffer = bytearray(_HEAD.pack(0, 0, _RECORDS_A_CALL, 0) + lowest + highest)
        buffer.extend(bytes(_RECORDS_A_CALL * _RECORD.size))
        fcntl.ioctl(directory, _GETFSMAP, buffer)
        entries = _HEAD.unpack_from(buffer)[3]
        yield from free_records(buffer, device)
        if entries == 0:
            return
        last = _RECORDS_AT + (entries - 1) * _RECORD.size
        lowest = bytes(buffer[last : last + _RECORD.size])  # goes on behind it, as fsmap_advance() does
        if _RECORD.unpack(lowest)[1] & _LAST:
            return


def free_records(answer: bytes | bytearray, device: int) -> Iterator[Range]:
    """The free ranges of one device in an answer of FS_IOC_GETFSMAP. `device`: number as new_encode_dev() writes it."""
    entries = _HEAD.unpack_from(answer)[3]
    for at in range(_RECORDS_AT, _RECORDS_AT + entries * _RECORD.size, _RECORD.size):
        of, flags, physical, owner, _, length = _RECORD.unpack_from(answer, at)
        if of == device and flags & _SPECIAL_OWNER and owner == _OWNER_FREE:
            yield physical, length


def _sync(directory: int, check: Callable[[], None]) -> None:
    """syncfs, in a thread: a disk that hangs must not hang who waits for it, if `check` gives up."""
    failure: list[int] = []

    def act() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(own):
            failure.append(ctypes.get_errno())
        os.close(own)

    own = os.dup(directory)
    thread = threading.Thread(target=act, name="syncfs", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        check()
    if failure:
        raise _Unanswered(f"it cannot be synced ({os.strerror(failure[0])})")


def parts(device: Device) -> list[Part]:
    """The disk itself, and its partitions when it is a whole one."""
    found = [Part(device.sys.name, device.numbers, 0)]
    for folder in sorted(device.sys.iterdir()):
        if (folder / "partition").exists():
            found.append(Part(folder.name, read(folder / "dev"), int(read(folder / "start", "0")) * _SECTOR))
    return found


def _names(source: str, numbers: str) -> bool:
    """Is that path this block device? btrfs shows a number of its own, and is known by its source."""
    try:
        status = os.stat(source)
    except OSError:
        return False
    return stat.S_ISBLK(status.st_mode) and f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" == numbers


def merged(ranges: Iterable[Range], end: int) -> list[Range]:
    """Ascending and apart from each other, cut at `end`; neighbours become one."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        stop = min(offset + length, end)
        if offset >= stop:
            continue
        if found and offset <= found[-1][0] + found[-1][1]:
            before = found[-1][0]
            found[-1] = before, max(found[-1][0] + found[-1][1], stop) - before
        else:
            found.append((offset, stop - offset))
    return found


def whole_blocks(ranges: Iterable[Range]) -> list[Range]:
    """The blocks of 64 KiB that lie in the ranges wholly: (first, count). The bitmap knows nothing smaller."""
    found = []
    for offset, length in ranges:
        first, end = -(-offset // BLOCK_BYTES), (offset + length) // BLOCK_BYTES
        if first < end:
            found.append((first, end - first))
    return found
