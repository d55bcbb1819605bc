"""Taking the images themselves back to a point: what the point's map knows is written over them.

It is an act of the applier like any other: old content is kept first, so that a rewind can be rewound, and after a
crash it is done again, from the same undo files and journal, with the same result.

It goes in the order in which the content was kept, not in that of the disks: each block is then read once. In the order
of the disks 4 KiB pieces from everywhere cost a block of a quarter of a MiB each. What is in hand is sorted, and
neighbours become one write; a batch of the applier was sorted when its old content was kept, so that is worth most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rha.appliance.pointview import ZEROS, PointView
from rha.journal import extents
from rha.journal.extents import Extent, Table

GROUP_BYTES = 32 << 20
LONGEST_BYTES = 1 << 20  # of one extent: what undo reads at once, whatever is in it

Write = Callable[[Table, memoryview], None]


def write_back(view: PointView, write: Write) -> None:
    """Calls `write(extents, their data)` until the images are what the view shows. Raises what it raises, and as
    `PointView.read`."""
    # Listed before the first write, which adds to the map.
    for disk, pieces in [(disk, view.pieces(disk)) for disk in range(len(view.disk_bytes))]:
        zeros = pieces["kind"] == ZEROS
        for group in _groups(pieces[~zeros]):
            data = view.gather(group)
            write(_joined(disk, group), data)
        if zeros.any():
            write(_holes(disk, pieces[zeros]), memoryview(b""))


def _groups(pieces: Table) -> Iterator[Table]:
    """Pieces of neighbouring blocks, about GROUP_BYTES together, each group in the order of the disk."""
    pieces = pieces[np.argsort(pieces["block"], kind="stable")]
    ends, first, begin = np.cumsum(pieces["length"], dtype="u8"), 0, 0
    while first < len(pieces):
        stop = max(first + 1, int(np.searchsorted(ends, begin + GROUP_BYTES, "right")))
        group = pieces[first:stop]
        yield group[np.argsort(group["offset"])]
        first, begin = stop, int(ends[stop - 1])


def _joined(disk: int, pieces: Table) -> Table:
    """Extents of data that stands one behind the other, in the order of the pieces."""
    at, ends = 0, pieces["offset"] + pieces["length"]
    firsts = np.append(0, np.flatnonzero(pieces["offset"][1:] != ends[:-1]) + 1)
    lasts = np.append(firsts[1:] - 1, len(pieces) - 1)
    found = []
    for begin, end in zip(pieces["offset"][firsts].tolist(), ends[lasts].tolist(), strict=True):
        for offset in range(begin, end, LONGEST_BYTES):
            length = min(LONGEST_BYTES, end - offset)
            found.append(Extent(disk, extents.DATA, offset, length, at))
            at += length
    return extents.table(found)


def _holes(disk: int, pieces: Table) -> Table:
    rows = pieces[["offset", "length"]].tolist()
    return extents.table(Extent(disk, extents.ZEROS, offset, length, 0) for offset, length in rows)
