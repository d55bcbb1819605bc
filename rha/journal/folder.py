"""What a journal keeps in its folder besides frames: the lock, the segments' names, the durable mark."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rha import hashing
from rha.errors import StorageError
from rha.hashing import Buffer
from rha.journal.sealing import PLAIN_ONLY, Keyring

MARK_NAME = "durable"
_MARK = struct.Struct("<QQ")  # position, XXH3-64 of its eight bytes
_SEGMENT_NAME = re.compile(r"[0-9a-f]{16}\.journal")
_HINT_DAMAGED = "move the scenario's journal folder aside and restart the appliance: its disks are then compared again"


class Segment(NamedTuple):
    """One file. `start`: journal position of its first byte; `keys`: by which it is read when it is encrypted."""

    start: int
    path: Path
    keys: Keyring = PLAIN_ONLY


def damaged(path: Path, offset: int, cause: str) -> StorageError:
    """The error for bytes that were there and are no longer right."""
    return StorageError("journal damaged", cause=f"{path}, offset {offset}: {cause}", hint=_HINT_DAMAGED)


def lock(folder: Path) -> int:
    """Opens the folder (made if missing) and takes it for this process; closing the descriptor lets go.

    Raises StorageError when another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"journal folder {folder} cannot be used", cause=str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(
            "two appliances on one store",
            cause=f"another process holds {folder}: {error.strerror}",
            hint=f"fuser -v {folder}",
        ) from error
    return descriptor


def segment_path(folder: Path, start: int) -> Path:
    return folder / f"{start:016x}.journal"


def segments(folder: Path, keys: Keyring = PLAIN_ONLY) -> list[Segment]:
    """The folder's segments in order.

    Raises StorageError when one is missing between two others, or has another length than the next one's name says.
    """
    names = sorted(entry for entry in os.listdir(folder) if _SEGMENT_NAME.fullmatch(entry))
    found = [Segment(int(name[:16], 16), folder / name, keys) for name in names]
    for segment, following in itertools.pairwise(found):
        end = segment.start + segment.path.stat().st_size
        if end != following.start:
            raise damaged(
                segment.path, end - segment.start, f"ends at {end:#x}; the next begins at {following.start:#x}"
            )
    return found


def pwrite_all(file: int, parts: Sequence[Buffer], offset: int) -> None:
    """Writes all of the parts, one behind the other, at a file offset. Raises OSError."""
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    while views:
        written = os.pwritev(file, views, offset)
        offset += written
        views = _after(views, written)


def _after(views: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the parts after a short write."""
    left = []
    for view in views:
        if written < len(view):
            left.append(view[written:])
        written = max(0, written - len(view))
    return left


class DurableMark:
    """The position up to which the journal was on stable storage when last told: 16 bytes in a file of their own.

    It lags, it never leads. Bytes below it were synced, so damage there is damage; bytes above it may have been torn by
    a crash. It is written after every sync, and itself forced out only about once a second.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        """`fresh`: there are no segments.

        Raises StorageError when mark and segments contradict each other: one of them was removed.
        """
        self.path = folder / MARK_NAME
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if fresh else 0)
        try:
            self._file = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            raise damaged(self.path, 0, "the file is missing, and there are segments") from None
        try:
            if fresh and os.fstat(self._file).st_size and self.read():
                raise damaged(self.path, 0, f"{self.read()} bytes were durable, and there are no segments")
            if fresh:
                self.write(0, force=True)
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> int:
        """The position. Raises StorageError when the mark is damaged."""
        raw = os.pread(self._file, _MARK.size, 0)
        if len(raw) != _MARK.size or hashing.xxh3(raw[:8]) != _MARK.unpack(raw)[1]:
            raise damaged(self.path, 0, "its checksum does not fit")
        return int(_MARK.unpack(raw)[0])

    def write(self, position: int, *, force: bool) -> None:
        """Notes the position; `force` puts it on stable storage. Raises OSError."""
        raw = position.to_bytes(8, "little")
        os.pwrite(self._file, raw + hashing.xxh3(raw).to_bytes(8, "little"), 0)
        if force:
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)
