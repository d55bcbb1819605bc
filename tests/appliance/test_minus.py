"""The minus rule's set against a plain Python set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rha.appliance.minus import SECTOR, WrittenSectors

DISK_SECTORS = 5000  # more than two chunks of 2048, the last one cut
RANGE = st.tuples(st.integers(0, DISK_SECTORS - 1), st.integers(1, 3000))


@given(st.lists(RANGE, max_size=12), RANGE)
def test_what_is_left_is_what_a_plain_set_leaves(written: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    real, plain = WrittenSectors(0, DISK_SECTORS * SECTOR), set()
    for first, count in written:
        real.add_range(first * SECTOR, count * SECTOR)
        plain |= set(range(first, min(first + count, DISK_SECTORS)))
    first, count = asked[0], min(asked[1], DISK_SECTORS - asked[0])
    left = set()
    for offset, length in real.without(first * SECTOR, count * SECTOR):
        assert offset % SECTOR == 0
        assert length % SECTOR == 0
        part = set(range(offset // SECTOR, (offset + length) // SECTOR))
        assert not part & left
        left |= part
    assert left == set(range(first, first + count)) - plain
