"""Large buffers that are used again.

Blocks over 256 KiB go back to the system when they are freed (rha/appliance/memory.py says why), and a new one costs a
fault and a cleared page for every 4 KiB: with 200 MB/s of writes an eighth of all that two processors did.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

LEAST_BYTES, MOST_BYTES = 64 << 10, 16 << 20
KEPT_BYTES = 16 << 20  # that nobody uses: what is over it goes back to the system


class Buffers:
    """Lends memory, in sizes of powers of two; any thread."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._most, self._kept = kept_bytes, 0
        self._free: dict[int, list[Any]] = {}
        # Memory comes back where its last view is dropped, which may be inside of this lock.
        self._lock = threading.RLock()

    @property
    def kept_bytes(self) -> int:
        """What waits to be used again."""
        return self._kept

    def take(self, length: int) -> memoryview:
        """Writable; what is in it is anything. It is lent until the last view of it is gone, slices included."""
        if not LEAST_BYTES <= length <= MOST_BYTES:
            return memoryview(bytearray(length))
        size = 1 << (length - 1).bit_length()
        block = self._reuse(size)
        if block is None:
            block = np.empty(size, np.uint8)
        lent = block[:length]
        weakref.finalize(lent, self._give, block).atexit = False
        return memoryview(lent)

    def _reuse(self, size: int) -> Any:
        with self._lock:
            waiting = self._free.get(size)
            if not waiting:
                return None
            self._kept -= size
            return waiting.pop()

    def _give(self, block: Any) -> None:
        with self._lock:
            if self._kept + len(block) <= self._most:
                self._kept += len(block)
                self._free.setdefault(len(block), []).append(block)

    def drain(self) -> None:
        """Gives back to the system what waits."""
        with self._lock:
            self._free.clear()
            self._kept = 0


BUFFERS = Buffers()
