"""Taking the images themselves back to a point: what the point's map knows is written over them.

It is an act of the applier like any other: old content is kept first, so that a rewind can be rewound, and after a
crash it is done again, from the same undo files and journal, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rha.appliance.pointview import PointView
from rha.hashing import Buffer
from rha.journal import extents
from rha.journal.extents import Extent

GROUP_BYTES = 32 << 20
PIECE_BYTES = 1 << 20

Write = Callable[[Sequence[Extent], Sequence[Buffer]], None]


def write_back(view: PointView, write: Write) -> None:
    """Calls `write(extents, their data)` until the images are what the view shows. Raises what it raises, and as
    `PointView.read`."""
    for group in _groups(_pieces(view)):
        write(group, [b"" if extent.kind == extents.ZEROS else _read(view, extent) for extent in group])


def _read(view: PointView, extent: Extent) -> Buffer:
    return view.read(extent.disk, extent.offset, extent.length)


def _pieces(view: PointView) -> Iterator[Extent]:
    """What differs or may differ. Listed before the first write, which adds to the map."""
    for disk in range(len(view.disk_bytes)):
        for offset, length, is_zero in list(view.runs(disk)):
            kind, most = (extents.ZEROS, length) if is_zero else (extents.DATA, PIECE_BYTES)
            for at in range(offset, offset + length, most):
                yield Extent(disk, kind, at, min(most, offset + length - at), 0)


def _groups(pieces: Iterator[Extent]) -> Iterator[list[Extent]]:
    group: list[Extent] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += piece.length if piece.kind == extents.DATA else 0
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
