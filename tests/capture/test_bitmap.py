"""Bitmaps in C against plain Python sets."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rha._native import ffi, lib

BITS, WORDS = 300, 5
RANGE = st.integers(0, BITS).flatmap(lambda first: st.tuples(st.just(first), st.integers(0, BITS - first)))
SETS = st.sets(st.integers(0, BITS - 1))


def plane_of(bits: set[int]) -> Any:
    plane = ffi.new("uint64_t[]", WORDS)
    for bit in bits:
        plane[bit // 64] |= 1 << bit % 64
    return plane


def bits_of(plane: Any) -> set[int]:
    return {bit for bit in range(WORDS * 64) if plane[bit // 64] >> bit % 64 & 1}


@given(st.lists(st.tuples(st.booleans(), RANGE), max_size=20))
def test_set_and_clear(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    plane, plain = plane_of(set()), set[int]()
    for setting, (first, count) in steps:
        if setting:
            lib.rha_bits_set(plane, first, count)
            plain |= set(range(first, first + count))
        else:
            lib.rha_bits_clear(plane, first, count)
            plain -= set(range(first, first + count))
        assert bits_of(plane) == plain
    assert lib.rha_bits_count(plane, WORDS) == len(plain)


@given(SETS, SETS)
def test_move_loses_nothing(source: set[int], target: set[int]) -> None:
    one, other = plane_of(source), plane_of(target)
    assert lib.rha_bits_move(one, other, WORDS) == len(source)
    assert bits_of(one) == set()
    assert bits_of(other) == source | target


@given(SETS, st.integers(0, BITS + 64), st.integers(1, BITS))
def test_next_run(bits: set[int], start: int, longest: int) -> None:
    first = ffi.new("uint64_t *")
    count = lib.rha_bits_next_run(plane_of(bits), BITS, start, longest, first)
    ahead = sorted(bit for bit in bits if bit >= start)
    if not ahead:
        assert count == 0
        return
    length = next(i for i in range(1, BITS + 2) if ahead[0] + i not in bits)
    assert (first[0], count) == (ahead[0], min(length, longest))
