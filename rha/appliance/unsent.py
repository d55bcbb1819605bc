"""Which ranges of the images were never sent, as the file system held them for free when the disk was synced.

There the disk holds what was once deleted, and the image zeros or something older. Nobody can read that through the
file system, but a comparison would find it. A range stays here until the stream or a sync writes it, sector by sector.

Kept in `unsent.json` with the journal position that it is right for; the journal behind that position is followed again
after a start. The file is replaced after each change that the journal does not hold, and every 64 MiB of journal.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.appliance.minus import SECTOR, WrittenSectors
from rha.journal.segment import Journal
from rha.sync.blocks import DIFFERS, PARTLY_UNSENT, UNSENT
from rha.sync.freespace import Range, merged
from rha.wire import frames
from rha.wire.frames import FrameType, Header

SAVE_BYTES = 64 << 20  # of journal that a start may have to follow again


class _Saved(msgspec.Struct, kw_only=True, frozen=True):
    """`ranges`: by index of the disk; the journal below `position` has been followed."""

    position: int = 0
    ranges: dict[int, list[Range]] = {}


class Unsent:
    """May be asked from any thread; one changes it. Raises StorageError without memory, or when the file cannot be read
    or written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "unsent.json"
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._sent: dict[int, WrittenSectors] = {}  # the complement; no entry: everything was sent
        self._position = 0
        self._is_changed = False

    def recall(self, journal: Journal, sizes: Sequence[int]) -> None:
        """As it was when the appliance stopped. `sizes`: of the disks, in bytes."""
        saved = catalog.load(self._path, _Saved) or _Saved()
        if not saved.ranges or saved.position < journal.first:
            # What the journal no longer holds may have been written: say nothing rather than hide a difference.
            return
        self._position = saved.position
        for disk, ranges in saved.ranges.items():
            if 0 <= disk < len(sizes):
                if not _is_possible(ranges, sizes[disk]):
                    raise catalog.unreadable(self._path, f"ranges that disk {disk} does not have")
                self._set(disk, sizes[disk], ranges)
        if saved.position < journal.durable:
            for entry in journal.read(saved.position, journal.durable):
                self.follow(entry.header, entry.payload)

    def add(self, disk: int, size: int, ranges: Iterable[Range]) -> None:
        """These ranges of a disk of `size` bytes were left out."""
        self._set(disk, size, merged([*self.parts(disk, 0, size), *ranges], size))
        self._is_changed = True

    def _set(self, disk: int, size: int, ranges: Sequence[Range]) -> None:
        sent, at = WrittenSectors(disk, size), 0
        for offset, length in ranges:
            sent.add_range(at, offset - at)
            at = offset + length
        sent.add_range(at, size - at)
        with self._lock:
            self._sent[disk], self._sizes[disk] = sent, size

    def clear(self, disk: int) -> None:
        """The whole disk is synced anew."""
        with self._lock:
            self._is_changed |= self._sent.pop(disk, None) is not None

    def follow(self, header: Header, payload: bytes | memoryview) -> None:
        """A frame of the journal: what it writes is sent."""
        if not self._sent:
            return
        with self._lock:
            if header.type is FrameType.RECORDS:
                for sent in self._sent.values():
                    sent.add_records(payload[: header.raw_length])
            elif header.type is FrameType.RESYNC and header.disk in self._sent:
                is_zeros = header.flags & frames.FLAG_ZEROS
                length = frames.zeros_length(payload) if is_zeros else header.raw_length
                self._sent[header.disk].add_range(header.offset, length)

    def parts(self, disk: int, offset: int, length: int) -> list[Range]:
        """The parts of a range that were never sent. Whole sectors, ascending."""
        with self._lock:
            sent = self._sent.get(disk)
            length = min(length, self._sizes.get(disk, 0) - offset)  # a disk may have grown since
            return list(sent.without(offset, length)) if sent and length > 0 else []

    def save_if_due(self, position: int) -> None:
        """`position`: everything below it was followed, and is durable."""
        if self._is_changed or (self._sent and position - self._position >= SAVE_BYTES):
            self.save(position)

    def save(self, position: int) -> None:
        ranges = {disk: self.parts(disk, 0, size) for disk, size in self._sizes.items() if disk in self._sent}
        catalog.save(self._path, _Saved(position=position, ranges=ranges))
        with self._lock:
            for disk in [disk for disk, left in ranges.items() if not left]:
                del self._sent[disk]
        self._position, self._is_changed = position, False

    def judge(self, disk: int, offset: int, unit: int, flags: bytes) -> bytes:
        """The flags of a comparison by `unit` bytes; a difference in what was never sent is told from others."""
        end, judged = offset + len(flags) * unit, bytearray(flags)
        for start, length in self.parts(disk, offset, end - offset):
            for at in range((start - offset) // unit, -(-(start + length - offset) // unit)):
                if judged[at] == DIFFERS:
                    judged[at] = PARTLY_UNSENT
        for at, flag in enumerate(judged):
            if flag == PARTLY_UNSENT and self._is_all_unsent(disk, offset + at * unit, unit):
                judged[at] = UNSENT
        return bytes(judged)

    def _is_all_unsent(self, disk: int, offset: int, length: int) -> bool:
        with self._lock:
            length = min(length, self._sizes.get(disk, 0) - offset)
        return self.parts(disk, offset, length) == [(offset, length)]


def _is_possible(ranges: Sequence[Range], size: int) -> bool:
    """Ascending, apart, whole sectors of a disk of `size` bytes."""
    at = 0
    for offset, length in ranges:
        if offset < at or length <= 0 or offset + length > size or offset % SECTOR or length % SECTOR:
            return False
        at = offset + length
    return True
