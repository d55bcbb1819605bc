"""The disks as a substitute left them: its overlays over the point that they were laid on, read as one."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from rha.appliance.pointview import STATUS_BYTES, PointView
from rha.image.client import ImageReader, read_only_export
from rha.image.statuses import Range, held_ranges
from rha.image.storage_daemon import ImageSpec, StorageDaemon


class KeptView:
    """May be read from any thread until `close`. `point`: what lies below, the view closes it. Raises StorageError;
    then the point is left open."""

    def __init__(self, point: PointView, overlays: Sequence[ImageSpec], run: Path, time: float) -> None:
        """`run`: a folder for the storage daemon; `time`: of the point, as the substitute's switch knew it."""
        self._point, self.disk_bytes = point, point.disk_bytes
        self.place = point.place._replace(time=time)
        self._lock = threading.Lock()  # the readers: each is one thread's at a time
        with ExitStack() as stack:
            # The storage daemon dies with the thread that started it.
            keeper = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="kept"))
            daemon = StorageDaemon(overlays, run, read_only=True, alone=True)
            keeper.submit(daemon.start).result()
            stack.callback(lambda: keeper.submit(daemon.stop).result())
            self._held = [Pieces(held_ranges(daemon.socket, read_only_export(spec.name))) for spec in overlays]
            self._readers = [self._reader(stack, daemon, spec) for spec in overlays]
            self._stack = stack.pop_all()

    @staticmethod
    def _reader(stack: ExitStack, daemon: StorageDaemon, spec: ImageSpec) -> ImageReader:
        reader = daemon.reader(spec.name)
        stack.callback(reader.close)
        return reader

    def read(self, disk: int, offset: int, length: int) -> memoryview:
        """Bytes of a disk. Raises StateError when the point below was lost meanwhile, StorageError."""
        found = self._held[disk].within(offset, length)
        if found == [(offset, length)]:
            return memoryview(self._read_held(disk, offset, length))
        content = self._point.read(disk, offset, length)
        for at, count in found:
            content[at - offset : at - offset + count] = self._read_held(disk, at, count)
        return content

    def _read_held(self, disk: int, offset: int, length: int) -> bytearray:
        with self._lock:
            return self._readers[disk].read(offset, length)

    def status(self, disk: int, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from `offset` on, and whether they surely read as zeros; may end early."""
        end, at, rows = offset + min(length, STATUS_BYTES), offset, list[tuple[int, bool]]()
        for first, count in [*self._held[disk].within(offset, end - offset), (end, 0)]:
            rows += self._below(disk, at, first)
            rows += [(count, False)] if count else []
            at = first + count
        return rows

    def _below(self, disk: int, begin: int, end: int) -> Iterator[tuple[int, bool]]:
        while begin < end:
            for count, is_zero in self._point.status(disk, begin, end - begin):
                yield count, is_zero
                begin += count

    def removed_bytes(self) -> int:
        """As of the point below."""
        return self._point.removed_bytes()

    @property
    def why_lost(self) -> str:
        """Why what lies below cannot be read any more; empty: it can."""
        return self._point.why_lost

    def close(self) -> None:
        """No reading afterwards."""
        self._stack.close()
        self._point.close()


class Pieces:
    """Ascending ranges that do not overlap."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = list(ranges)
        self._starts = [offset for offset, _ in ranges]

    def within(self, offset: int, length: int) -> list[Range]:
        """Their parts in a range, neighbours merged."""
        found, end = list[Range](), offset + length
        for index in range(max(0, bisect_right(self._starts, offset) - 1), len(self._ranges)):
            at, count = self._ranges[index]
            if at >= end:
                break
            first, stop = max(at, offset), min(at + count, end)
            if first < stop and found and sum(found[-1]) == first:
                found[-1] = (found[-1][0], stop - found[-1][0])
            elif first < stop:
                found.append((first, stop - first))
        return found
