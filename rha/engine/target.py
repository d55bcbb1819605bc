"""A disk of a repaired master that is offered to be overwritten: held alone, read and written past the page cache."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from rha.capture.device import Device, is_read_only, lookup
from rha.capture.stack import read
from rha.errors import DeviceError
from rha.hashing import Buffer
from rha.wire.frames import BadFrame

BUFFER_BYTES = 1 << 20
_BLKZEROOUT = 0x127F  # include/uapi/linux/fs.h; u64 offset, u64 length
_SECTOR = 512


class Target:
    """Open, and nobody else's, from here to `close`: the kernel lets nobody mount it meanwhile (O_EXCL), and has said
    that nobody had. One thread uses it.

    Raises DeviceError when the device is missing, read-only, or in use by a file system, swap, RAID, device mapper or
    another program that holds it alone; on any of its partitions, too.
    """

    def __init__(self, name: str, path: str) -> None:
        device = lookup(path)
        if is_read_only(device):
            raise DeviceError(f"{path} is read-only", cause="it cannot be overwritten", hint=f"blockdev --setrw {path}")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_open(device, error) from error
        self.name, self.path, self.bytes = name, path, device.bytes
        self.block_bytes = int(read(device.queue / "logical_block_size", str(_SECTOR)))
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # aligned, as O_DIRECT wants it

    def _check(self, offset: int, length: int) -> None:
        block = self.block_bytes
        if offset % block or length % block or length <= 0 or offset < 0 or offset + length > self.bytes:
            raise BadFrame(
                "a range that the disk does not have",
                cause=f"{length} bytes at {offset} of {self.name}, {self.bytes} bytes in blocks of {block}",
            )

    def read(self, offset: int, length: int) -> memoryview:
        """At most BUFFER_BYTES from the medium; valid until the next call. Raises DeviceError, BadFrame."""
        self._check(offset, length)
        view = memoryview(self._buffer)[:length]
        try:
            count = os.preadv(self._fd, [view], offset)
        except OSError as error:
            raise self._failed("read", offset, error) from error
        if count != length:
            raise DeviceError(f"{self.path} is shorter than it was", cause=f"{count} of {length} bytes at {offset}")
        return view

    def write(self, offset: int, data: Buffer) -> None:
        """On stable storage after `sync`. Raises DeviceError, BadFrame."""
        whole = memoryview(data)
        self._check(offset, len(whole))
        for at in range(0, len(whole), BUFFER_BYTES):
            piece = whole[at : at + BUFFER_BYTES]
            self._buffer[: len(piece)] = piece
            self._write_buffer(offset + at, len(piece))

    def _write_buffer(self, offset: int, length: int) -> None:
        try:
            count = os.pwritev(self._fd, [memoryview(self._buffer)[:length]], offset)
        except OSError as error:
            raise self._failed("write", offset, error) from error
        if count != length:
            raise DeviceError(f"{self.path} takes less than it should", cause=f"{count} of {length} bytes at {offset}")

    def zero(self, offset: int, length: int) -> None:
        """Makes a range read as zeros; the device's own command where it has one. Raises DeviceError, BadFrame."""
        self._check(offset, length)
        try:
            fcntl.ioctl(self._fd, _BLKZEROOUT, struct.pack("QQ", offset, length))
        except OSError as error:
            raise self._failed("zero", offset, error) from error

    def sync(self) -> None:
        """Everything written is on stable storage, the device's own cache emptied. Raises DeviceError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("flush", 0, error) from error

    def _failed(self, act: str, offset: int, error: OSError) -> DeviceError:
        return DeviceError(f"{self.path} cannot {act}", cause=f"at byte {offset}: {error}", hint="dmesg")

    def close(self) -> None:
        os.close(self._fd)


def _cannot_open(device: Device, error: OSError) -> DeviceError:
    path = device.path
    if error.errno != errno.EBUSY:
        return DeviceError(f"{path} cannot be opened", cause=error.strerror or str(error), hint=f"ls -l {path}")
    users = list(_users(device)) or ["a program holds it alone"]
    return DeviceError(
        f"{path} is in use", cause="; ".join(users), hint=f"umount it, or start from a rescue system; lsblk {path}"
    )


def _users(device: Device) -> Iterator[str]:
    """Who uses a device or its partitions, in words."""
    parts = [device.sys, *sorted(path.parent for path in device.sys.glob("*/partition"))]
    numbers = {read(part / "dev"): part.name for part in parts}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[2] in numbers:
            yield f"{numbers[words[2]]} is mounted on {words[4]}"
    swaps = {line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]}
    for part in parts:
        yield from (f"{part.name} belongs to {holder.name}" for holder in sorted(part.glob("holders/*")))
        if f"/dev/{part.name}" in swaps:
            yield f"{part.name} is swap"
