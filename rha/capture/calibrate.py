"""A page of memory whose physical frame is known: what the calibration program looks for."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from rha.errors import HostError

PAGE = mmap.PAGESIZE
_PRESENT, _FRAME_MASK = 1 << 63, (1 << 55) - 1  # Documentation/admin-guide/mm/pagemap.rst


class KnownPage:
    """One locked page of random bytes. Locked keeps it in memory, not in its place: the kernel moves it when it
    compacts memory (Documentation/mm/unevictable-lru.rst). While a write of it is under way it stays where it is."""

    def __init__(self) -> None:
        self.buffer = mmap.mmap(-1, PAGE)
        self.content = os.urandom(PAGE)
        self.buffer[:] = self.content
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        if ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(self._address), ctypes.c_size_t(PAGE)) != 0:
            raise HostError(
                "no locked page for the calibration", cause=os.strerror(ctypes.get_errno()), hint="ulimit -l"
            )

    @property
    def frame(self) -> int:
        """Its page frame number now. Raises HostError when the kernel does not tell."""
        _ = self.buffer[0]  # waits for a move that is under way
        return _frame_of(self._address)

    @property
    def magic(self) -> int:
        """The page's first 8 bytes."""
        return int(struct.unpack_from("<Q", self.content)[0])


def _frame_of(address: int) -> int:
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        entry = struct.unpack("<Q", pagemap.read(8))[0]
    frame = entry & _FRAME_MASK
    if not entry & _PRESENT or not frame:
        raise HostError(
            "the kernel does not tell page frames",
            cause="/proc/self/pagemap shows 0",
            hint="run as root with CAP_SYS_ADMIN, outside a user namespace",
        )
    return int(frame)
