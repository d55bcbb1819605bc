"""Payload of a FREE frame: ranges of one disk, each an offset and a length in bytes as two u64, little endian."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from rha.sync.freespace import Range
from rha.wire.frames import BadFrame

MOST_RANGES = 4096  # in one frame: 64 KiB
_PAIR = struct.Struct("<QQ")
_SECTOR = 512


def encode_ranges(ranges: Iterable[Range]) -> bytes:
    """Payload of a FREE frame."""
    return b"".join(_PAIR.pack(offset, length) for offset, length in ranges)


def decode_ranges(payload: bytes | memoryview, size: int) -> list[Range]:
    """The ranges of a FREE frame. Raises BadFrame when they are not whole sectors of a disk of `size` bytes."""
    if len(payload) % _PAIR.size:
        raise BadFrame("free ranges cut off", cause=f"{len(payload)} bytes of payload")
    ranges = [(offset, length) for offset, length in _PAIR.iter_unpack(payload)]
    for offset, length in ranges:
        if offset % _SECTOR or length % _SECTOR or not 0 < length <= size - offset:
            raise BadFrame("free ranges beyond their disk", cause=f"{length} bytes at {offset} of {size}")
    return ranges
