"""Writes to a block device by Linux' native asynchronous I/O, O_DIRECT: the queue is as deep as asked, and the source
is one buffer (its lines stay in the CPU's cache) or walks through a large one (they do not), which lies together or
scattered in memory. fio offers no choice of source.

Structures and operation numbers: include/uapi/linux/aio_abi.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from typing import Any

import numpy as np

_SETUP, _DESTROY, _GETEVENTS, _SUBMIT = 206, 207, 208, 209  # x86-64
_PWRITE = 1
_IOCB = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("rw_flags", "<u4"),
        ("opcode", "<u2"),
        ("reqprio", "<i2"),
        ("fd", "<u4"),
        ("buf", "<u8"),
        ("nbytes", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("resfd", "<u4"),
    ]
)
_EVENT_BYTES = 32
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def source(size: int, *, scattered: bool = False) -> mmap.mmap:
    """A buffer of random bytes, all of it present: in huge pages, or in small ones that lie anywhere in memory."""
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_NOHUGEPAGE if scattered else mmap.MADV_HUGEPAGE)
    pages = list(range(0, size, mmap.PAGESIZE))
    if scattered:
        random.Random(size).shuffle(pages)  # the kernel gives them out in the order of the first touch
    for at in pages:
        buffer[at : at + mmap.PAGESIZE] = os.urandom(mmap.PAGESIZE)
    return buffer


def address(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Writer:
    """`depth` writes of `size` bytes at a time, places ascending and beginning again at the end of the device."""

    def __init__(self, device: str, device_bytes: int, size: int, depth: int, source: mmap.mmap) -> None:
        """A `source` of `size` bytes is used for every write; a larger one is walked through."""
        self._places = device_bytes // size
        self._sources, self._base = len(source) // size, address(source)
        self._size, self._depth, self._next = size, depth, 0
        self._fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
        self._context = ctypes.c_ulong(0)
        _call(_SETUP, ctypes.c_uint(depth), ctypes.byref(self._context))
        self._blocks = np.zeros(depth, _IOCB)
        self._blocks["opcode"], self._blocks["fd"], self._blocks["nbytes"] = _PWRITE, self._fd, size
        first = self._blocks.ctypes.data
        self._pointers = (ctypes.c_void_p * depth)(*(first + i * _IOCB.itemsize for i in range(depth)))
        self._events = ctypes.create_string_buffer(depth * _EVENT_BYTES)

    def batch(self) -> None:
        """Submits `depth` writes and waits for all of them. Raises OSError."""
        numbers = np.arange(self._next, self._next + self._depth)
        self._next += self._depth
        self._blocks["offset"] = numbers % self._places * self._size
        self._blocks["buf"] = self._base + numbers % self._sources * self._size
        wanted = ctypes.c_long(self._depth)
        if _call(_SUBMIT, self._context, wanted, self._pointers) != self._depth:
            raise OSError("fewer writes were taken than submitted")
        _call(_GETEVENTS, self._context, wanted, wanted, self._events, None)
        results = np.frombuffer(self._events, "<i8").reshape(-1, 4)[:, 2]
        if not (results == self._size).all():
            raise OSError(f"a write failed: {sorted(set(results.tolist()))}")

    def close(self) -> None:
        _call(_DESTROY, self._context)
        os.close(self._fd)
