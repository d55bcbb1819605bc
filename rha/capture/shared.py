"""The maps that probe and engine share, as numpy views on their memory. Layouts come from csrc/state.h through cffi, so
Python never states an offset of its own."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from rha._native import ffi

MODE_OFF, MODE_BITMAP, MODE_DATA = 0, 1, 2
LAYOUT = 5
MAX_DISKS = 16
BLOCK_BYTES = 64 << 10  # one bit of a bitmap
TRUSTED_SUSPECTED = 2  # rha_disk.trusted: pending blocks may differ; 1: they do
PROBE_SECONDS = 0.02  # longer than any run of the probe: microseconds, with preemption off

# Bits beyond the end of a disk, so that one that grows is followed without loading the probe anew: a quarter, and
# 64 GiB (128 KiB of bitmap) at least.
GROWTH_PART, GROWTH_BYTES = 4, 64 << 30

# Index: enum rha_loss. Value: the name in reports, and the sentence for a person.
LOSSES = (
    ("ring-full", "the ring was full"),
    ("read-failed", "a page of a write could not be read"),
    ("too-large", "one write was larger than the probe copies"),
    ("straddles", "a write crossed the edge of the watched partition"),
    ("write-error", "the device reported a write error"),
    ("zone-append", "the device chose the sector of a write"),
    ("encrypted", "a write is encrypted on its way to the device"),
    ("untracked", "more writes were on their way than the probe keeps"),
)

_PAGE = mmap.PAGESIZE


def _dtype(name: str) -> np.dtype[Any]:
    """A numpy dtype with the compiler's own offsets for a C structure."""
    return _structure(ffi.typeof(name))


def _structure(ctype: Any) -> np.dtype[Any]:
    fields = dict(ctype.fields)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [_format(field.type) for field in fields.values()],
            "offsets": [field.offset for field in fields.values()],
            "itemsize": ffi.sizeof(ctype),
        }
    )


def _format(ctype: Any) -> Any:
    if ctype.kind == "array":
        return (_format(ctype.item), (ctype.length,))
    if ctype.kind == "struct":
        return _structure(ctype)
    return f"<u{ffi.sizeof(ctype)}"


STATE = _dtype("struct rha_state")
COUNTERS = _dtype("struct rha_counters")


def map_bytes(element_bytes: int, count: int) -> int:
    """Bytes to map for an mmapable array (kernel/bpf/arraymap.c: elements are padded to 8, the whole to a page)."""
    size = (element_bytes + 7 & ~7) * count
    return -(-size // _PAGE) * _PAGE


def view(fd: int, dtype: np.dtype[Any], count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """The elements of a mmapable array map, readable and writable in place. Raises OSError."""
    memory = mmap.mmap(fd, map_bytes(dtype.itemsize, count), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(memory, dtype, count)


def words_reserved(disk_bytes: int) -> int:
    """u64 words to set aside for one disk in a plane, growth included."""
    return words_for(disk_bytes + max(disk_bytes // GROWTH_PART, GROWTH_BYTES))


def words_for(disk_bytes: int) -> int:
    """u64 words of one disk's bits in a plane."""
    blocks = -(-disk_bytes // BLOCK_BYTES)
    return -(-blocks // 64)
