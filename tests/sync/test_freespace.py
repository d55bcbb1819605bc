"""Free ranges: what a file system answers, and what of it counts."""

from __future__ import annotations

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from rha.sync.freespace import free_records, merged, whole_blocks
from rha.sync.plan import BLOCK_BYTES

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12)


def record(device: int, flags: int, physical: int, owner: int, length: int) -> bytes:
    """struct fsmap, include/uapi/linux/fsmap.h"""
    return struct.pack("<IIQQQQ24x", device, flags, physical, owner, 0, length)


def test_only_what_is_said_to_be_free_on_this_device_counts() -> None:
    records = [
        record(0x700, 0x10, 0, 3, 4096),  # metadata
        record(0x700, 0x10, 4096, 1, 8192),
        record(0x700, 0, 12288, 1, 4096),  # inode 1: no special owner
        record(0x701, 0x10, 16384, 1, 4096),  # the log's device
        record(0x700, 0x10, 20480, 2, 4096),  # owner unknown
        record(0x700, 0x30, 24576, 1, 512),
    ]
    answer = struct.pack("<IIII48x", 0, 1, 1024, len(records)) + bytes(128) + b"".join(records) + bytes(640)
    assert list(free_records(answer, 0x700)) == [(4096, 8192), (24576, 512)]


@given(RANGES, st.integers(0, 80))
def test_merged_is_the_same_set_in_order_and_apart(ranges: list[tuple[int, int]], end: int) -> None:
    found = merged(ranges, end)
    wanted = {at for offset, length in ranges for at in range(offset, min(offset + length, end))}
    assert {at for offset, length in found for at in range(offset, offset + length)} == wanted
    assert all(one[0] + one[1] < other[0] for one, other in itertools.pairwise(found))
    assert all(length > 0 for _, length in found)


@given(st.lists(st.tuples(st.integers(0, 40 * BLOCK_BYTES), st.integers(1, 6 * BLOCK_BYTES)), max_size=6))
def test_a_block_counts_only_when_all_of_it_is_free(ranges: list[tuple[int, int]]) -> None:
    apart = merged(ranges, 50 * BLOCK_BYTES)
    wanted = {
        block
        for block in range(50)
        if any(o <= block * BLOCK_BYTES and (block + 1) * BLOCK_BYTES <= o + length for o, length in apart)
    }
    assert {block for first, count in whole_blocks(apart) for block in range(first, first + count)} == wanted
