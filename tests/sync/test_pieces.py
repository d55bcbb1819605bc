"""Pieces of a pass, over real bitmaps: all that is set, nothing else, never beyond the disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rha._native import ffi, lib
from rha.sync.plan import BLOCK_BYTES, PIECE_BLOCKS, pieces

BLOCKS = 300


@given(st.sets(st.integers(0, BLOCKS - 1)), st.integers(1, BLOCK_BYTES // 512).map(lambda sectors: sectors * 512))
def test_pieces_cover_just_the_set_blocks(wanted: set[int], last_block_bytes: int) -> None:
    plane = ffi.new("uint64_t[]", -(-BLOCKS // 64))
    for block in wanted:
        lib.rha_bits_set(plane, block, 1)

    def next_run(start: int, longest: int) -> tuple[int, int] | None:
        first = ffi.new("uint64_t *")
        count = lib.rha_bits_next_run(plane, BLOCKS, start, longest, first)
        return (first[0], count) if count else None

    disk_bytes = (BLOCKS - 1) * BLOCK_BYTES + last_block_bytes
    found = list(pieces(next_run, disk_bytes))
    assert [block for piece in found for block in range(piece.first, piece.first + piece.blocks)] == sorted(wanted)
    for piece in found:
        assert 1 <= piece.blocks <= PIECE_BLOCKS
        assert piece.offset == piece.first * BLOCK_BYTES
        assert piece.length == min(piece.blocks * BLOCK_BYTES, disk_bytes - piece.offset)


def test_a_block_set_behind_the_pass_waits_for_the_next_one() -> None:
    left = {5, 9}

    def next_run(start: int, longest: int) -> tuple[int, int] | None:
        ahead = sorted(block for block in left if block >= start)
        return (ahead[0], 1) if ahead else None

    seen = []
    for piece in pieces(next_run, BLOCKS * BLOCK_BYTES):
        seen.append(piece.first)
        left.add(2)
    assert seen == [5, 9]
