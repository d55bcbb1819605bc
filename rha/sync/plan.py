"""Which part of a disk to read next, and how: pieces of whole 64 KiB blocks, at most 1 MiB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK_BYTES = 64 << 10
PIECE_BLOCKS = 16


class Piece(NamedTuple):
    """Blocks [first, first + blocks) of a disk; `offset` and `length` in bytes, the last block cut at the disk's
    end."""

    first: int
    blocks: int
    offset: int
    length: int


def pieces(next_run: Callable[[int, int], tuple[int, int] | None], disk_bytes: int) -> Iterator[Piece]:
    """One pass over the set blocks, ascending. `next_run(start, longest)` gives the next run of blocks or None; blocks
    set behind the pass are left for the next one."""
    start = 0
    while run := next_run(start, PIECE_BLOCKS):
        first, count = run
        offset = first * BLOCK_BYTES
        yield Piece(first, count, offset, min(count * BLOCK_BYTES, disk_bytes - offset))
        start = first + count
