"""Taking the images themselves back to a point: what the point's map knows is written over them.

It is an act of the applier like any other: old content is kept first, so that a rewind can be rewound, and after a
crash it is done again, from the same undo files and journal, with the same result.

It goes in the order of the disk: neighbours become one write, and what is written at random takes several times as long
as what ascends. The undo that this needs is read in small parts from many places, but each of the applier's batches was
sorted when its old content was kept, so that a part is as much of one batch as lies in the range at hand.

An encrypted block can only be read as a whole, so there the order is that in which content was kept: each block is read
once, what is in hand is sorted.

Rejected: to have the kernel read the next group while one is written (nothing of it cached, at a load of 11: 550 MB/s
instead of 330 to 930, for half as much processor time again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rha.appliance.pointview import ZEROS, PointView
from rha.journal import extents
from rha.journal.extents import Table

GROUP_BYTES = 32 << 20
LONGEST_BYTES = 1 << 20  # of one extent: what undo reads at once, whatever is in it

_ROW = extents.table(()).dtype
Write = Callable[[Table, memoryview], None]


def write_back(view: PointView, write: Write) -> None:
    """Calls `write(extents, their data)` until the images are what the view shows. Raises what it raises, and as
    `PointView.read`."""
    groups = _along_disk if view.is_in_the_clear else _along_blocks
    room = memoryview(bytearray(GROUP_BYTES))  # used again and again: a page costs more at its first touch
    # Listed before the first write, which adds to the map.
    for disk, pieces in [(disk, view.pieces(disk)) for disk in range(len(view.disk_bytes))]:
        zeros = pieces["kind"] == ZEROS
        for group in groups(pieces[~zeros]):
            size = int(group["length"].sum(dtype="u8"))
            data = room[:size] if size <= len(room) else memoryview(bytearray(size))
            view.gather(group, data)
            write(_joined(disk, group), data)
        if zeros.any():
            write(_holes(disk, pieces[zeros]), memoryview(b""))


def _along_disk(pieces: Table) -> Iterator[Table]:
    """Pieces in the order of the disk, about GROUP_BYTES together."""
    ends, first, begin = np.cumsum(pieces["length"], dtype="u8"), 0, 0
    while first < len(pieces):
        stop = max(first + 1, int(np.searchsorted(ends, begin + GROUP_BYTES, "right")))
        yield pieces[first:stop]
        first, begin = stop, int(ends[stop - 1])


def _along_blocks(pieces: Table) -> Iterator[Table]:
    """Pieces of neighbouring blocks, about GROUP_BYTES together, each group in the order of the disk."""
    for group in _along_disk(pieces[np.argsort(pieces["block"], kind="stable")]):
        yield group[np.argsort(group["offset"])]


def _joined(disk: int, pieces: Table) -> Table:
    """Extents of data that stands one behind the other, in the order of the pieces; those longer than LONGEST_BYTES in
    parts."""
    ends = pieces["offset"] + pieces["length"]
    firsts = np.append(0, np.flatnonzero(pieces["offset"][1:] != ends[:-1]) + 1)
    begins = pieces["offset"][firsts]
    lengths = ends[np.append(firsts[1:] - 1, len(pieces) - 1)] - begins
    counts = ((lengths + LONGEST_BYTES - 1) // LONGEST_BYTES).astype(int)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of each part in its extent
    done = number.astype("u8") * LONGEST_BYTES
    rest = np.repeat(lengths, counts) - done
    return _extents(disk, extents.DATA, np.repeat(begins, counts) + done, np.minimum(rest, LONGEST_BYTES))


def _holes(disk: int, pieces: Table) -> Table:
    return _extents(disk, extents.ZEROS, pieces["offset"], pieces["length"])


def _extents(disk: int, kind: int, offsets: Any, lengths: Any) -> Table:
    """As rows; data stands one behind the other."""
    found = np.zeros(len(offsets), _ROW)
    found["disk"], found["kind"], found["offset"], found["length"] = disk, kind, offsets, lengths
    found["data"] = np.cumsum(found["length"]) - found["length"] if kind == extents.DATA else 0
    return found
