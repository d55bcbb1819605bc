"""How the C library keeps memory in a process that passes much of it through its hands.

glibc moves the size from which a block has a mapping of its own up to 32 MiB, by the largest one that was freed. Frames
and batches, 1 to 64 MiB each and of many threads, then lie in heaps between small objects that stay, and the heaps
never shrink: twenty masters at full speed held 750 MiB; with a fixed threshold and two heaps they held 373 MiB, at the
same speed (bench/masters.py).
"""

from __future__ import annotations

import ctypes

# malloc.h
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
THRESHOLD_BYTES = 256 << 10
ARENAS = 2


def give_back() -> bool:
    """Large blocks go back to the system when they are freed. To be called before threads are started. False where the
    C library knows no such thing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, THRESHOLD_BYTES) and mallopt(_M_ARENA_MAX, ARENAS))
