"""Is what comes out of the ring what was written? Asked at every load, with random bytes, before any disk is
watched."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from rha._native import ffi
from rha.capture.ring import Ring
from rha.errors import HostError

_BLKDISCARD, _BLKZEROOUT = 0x1277, 0x127F  # include/uapi/linux/fs.h
_RING_HEADER, _LENGTH_MASK, _DISCARDED = 8, (1 << 30) - 1, 1 << 30
_RECORD = struct.Struct("<QIHBBQ")

WRITE, DISCARD, WRITE_ZEROES, SECURE_ERASE, FLUSH = 1, 2, 3, 4, 5


def parse(data: bytes | memoryview) -> list[tuple[int, int, int, bytes]]:
    """Records of a region as (op, first byte, length in bytes, payload), one by one: for tests, not for the hot
    path."""
    records, at = [], 0
    while at < len(data):
        header = struct.unpack_from("<I", data, at)[0]
        length = header & _LENGTH_MASK
        if not header & _DISCARDED:
            sector, count, _, op, _, _ = _RECORD.unpack_from(data, at + _RING_HEADER)
            body = at + _RING_HEADER + _RECORD.size
            records.append((op, sector * 512, count, bytes(data[body : at + _RING_HEADER + length])))
        at += _RING_HEADER + length + 7 & ~7
    return records


def _write(fd: int, offset: int, content: bytes, misalign: int) -> None:
    """One O_DIRECT write from memory that begins `misalign` bytes into a page."""
    room = mmap.mmap(-1, len(content) + mmap.PAGESIZE)
    room[misalign : misalign + len(content)] = content
    with memoryview(room) as whole, whole[misalign : misalign + len(content)] as part:
        os.pwritev(fd, [part], offset)
    room.close()


def run(fd: int, ring: Ring) -> int:
    """Writes to the scratch device `fd` and compares what the ring holds after each write. Returns the bytes compared.

    Raises HostError with the first difference; the engine must not start then.
    """
    expected, got = bytearray(4 << 20), bytearray(4 << 20)
    plan = [(0, 4096, 0), (8192, 512, 512), (1 << 20, 3 << 20, 0), (64 << 10, 40 << 10, 512), (16384, 12288, 2048)]
    for offset, length, misalign in plan:
        content = os.urandom(length)
        _write(fd, offset, content, misalign)
        expected[offset : offset + length] = content
        _replay(ring, got)
        _compare(expected, got)
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("<QQ", 2 << 20, 128 << 10))
    expected[2 << 20 : (2 << 20) + (128 << 10)] = bytes(128 << 10)
    os.fsync(fd)
    _replay(ring, got)
    _compare(expected, got)
    return sum(length for _, length, _ in plan)


def _replay(ring: Ring, got: bytearray) -> None:
    region = ring.next(ring.bytes)
    for op, offset, length, payload in parse(region.data):
        if op == WRITE and len(payload) != length:
            raise _failed(f"a record of {length} bytes carries {len(payload)}")
        if op == WRITE:
            got[offset : offset + length] = payload
        elif op != FLUSH:
            got[offset : offset + length] = bytes(length)
    ring.release(region.end)


def _compare(expected: bytearray, got: bytearray) -> None:
    if got != expected:
        first = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
        raise _failed(f"byte {first} of the scratch device was captured as {got[first]}, written as {expected[first]}")


def _failed(cause: str) -> HostError:
    return HostError(
        "the probe does not capture what is written; nothing is protected",
        cause=cause,
        hint="report the kernel version (uname -r); rha doctor",
    )


assert ffi.sizeof("struct rha_record") == _RECORD.size
