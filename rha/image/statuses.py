"""What QEMU's NBD exports say of an image beside its bytes (QEMU's docs/interop/nbd.txt): which ranges a dirty bitmap
marks, which an overlay holds itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd

from rha.errors import StorageError

Range = tuple[int, int]  # offset and length in bytes
_ASK_BYTES = 1 << 30
_DIRTY = 1


def dirty_ranges(socket: Path, export: str, bitmap: str) -> list[Range]:
    """What a bitmap marks, ascending. Raises StorageError."""
    context = f"qemu:dirty-bitmap:{bitmap}"
    return [(at, length) for at, length, flags in statuses(socket, export, context) if flags & _DIRTY]


def held_ranges(socket: Path, export: str) -> list[Range]:
    """What the image itself holds, ascending; not what lies below it. Raises StorageError."""
    found = statuses(socket, export, "qemu:allocation-depth")
    return [(at, length) for at, length, depth in found if depth == 1]


def statuses(socket: Path, export: str, context: str) -> Iterator[tuple[int, int, int]]:
    """Offset, length and flags over a whole export, by an NBD meta context. Raises StorageError."""
    handle: Any = nbd.NBD()
    handle.set_export_name(export)
    handle.add_meta_context(context)
    found: list[int] = []

    def take(_context: str, _offset: int, rows: list[int], _error: object) -> int:
        found.extend(rows)
        return 0

    try:
        handle.connect_unix(str(socket))
        if not handle.can_meta_context(context):
            raise StorageError(f"{context} is not known", cause=f"export {export} on {socket}")
        at, size = 0, handle.get_size()
        while at < size:
            found.clear()
            handle.block_status(min(_ASK_BYTES, size - at), at, take)
            for length, flags in zip(found[::2], found[1::2], strict=True):
                length = min(length, size - at)
                yield at, length, flags
                at += length
    except nbd.Error as error:
        raise StorageError(f"{context} cannot be read", cause=str(error)) from error
