"""Makes a receiver's disks what the substitute's show: digests first, and only what differs travels.

The receiver is asked for digests of its ranges, window by window; for each piece that it answers, the same piece is
read here and what differs is sent. Blocks of 64 KiB that differ are asked about once more by pages of 4 KiB where that
pays (rha/sync/refine.py). Nobody else writes the receiver's disks, so its digest stays true until we send there; here
the guest may write meanwhile, which the next pass finds (rha/vm/live_disks.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rha import hashing
from rha.engine.compare import runs
from rha.engine.pace import Bucket
from rha.image.client import ImageReader
from rha.sync.blocks import BLOCK_BYTES, DIGEST_BYTES, PAGE_BYTES, UNITS, differing, digests
from rha.sync.refine import Refinement
from rha.wire.codec import Compressor, Packed
from rha.wire.frames import FLAG_PAGES, BadFrame

PIECE_BYTES = 1 << 20  # of one answer
WINDOW_BYTES = 16 << 20  # of one question
UNDER_WAY_BYTES = 48 << 20  # asked and not yet answered
WINDOW_RANGES = 512
PAGES_BYTES = 2 << 20  # of blocks that are asked about by page together: whether that pays is soon known
_BLOCKS = 0  # flag of HASHES for blocks of 64 KiB

Range = tuple[int, int]


class Line(Protocol):
    """What is needed of rha.appliance.offered.Offered."""

    def want(self, disk: int, unit: int, ranges: list[Range]) -> None: ...
    def hashes(self) -> tuple[int, int, int, bytes]: ...
    def send(self, disk: int, offset: int, packed: Packed) -> None: ...
    def send_zeros(self, disk: int, offset: int, length: int) -> None: ...


@dataclass
class Tally:
    """Of one pass, in bytes: `total` to be compared, of these `compared`; `differing` of them were sent."""

    total: int = 0
    compared: int = 0
    differing: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Compared per second."""
        return self.compared / max(1e-3, time.monotonic() - self.begun)


class _Asked(NamedTuple):
    disk: int
    offset: int
    length: int
    unit: int  # flag


class Unverified:
    """The blocks of each disk that were sent and not yet read back: a later comparison that finds a block equal, by the
    receiver's reading it from its device, takes it out."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._marks: list[npt.NDArray[np.bool_]] = [np.zeros(-(-size // BLOCK_BYTES), np.bool_) for size in sizes]

    def add(self, disk: int, offset: int, length: int) -> None:
        """The blocks that a range touches."""
        self._marks[disk][offset // BLOCK_BYTES : -(-(offset + length) // BLOCK_BYTES)] = True

    def remove(self, disk: int, offset: int, length: int) -> None:
        """Whole blocks."""
        self._marks[disk][offset // BLOCK_BYTES : -(-(offset + length) // BLOCK_BYTES)] = False

    @property
    def bytes(self) -> int:
        """At most so many."""
        return sum(int(np.count_nonzero(marks)) for marks in self._marks) * BLOCK_BYTES

    def together(self, more: Sequence[Sequence[Range]]) -> list[list[Range]]:
        """These ranges and what is unverified, by disk, ascending, whole blocks."""
        found = []
        for marks, size, own in zip(self._marks, self._sizes, more, strict=True):
            both = marks.copy()
            for offset, length in own:
                both[offset // BLOCK_BYTES : -(-(offset + length) // BLOCK_BYTES)] = True
            found.append(list(_marked(both, size)))
        return found

    def ranges(self) -> list[list[Range]]:
        """By disk, ascending, whole blocks."""
        return [list(_marked(marks, size)) for marks, size in zip(self._marks, self._sizes, strict=True)]


def _marked(marks: npt.NDArray[np.bool_], size: int) -> Iterator[Range]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8)))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        offset = first * BLOCK_BYTES
        yield offset, min(end * BLOCK_BYTES, size) - offset


class Sending:
    """One thread's own. `sources`: the substitute's disks in the receiver's order. `rates`: bytes per second that may
    be read here, and sent, 0: no limit; asked again and again. `check` raises what should end it. `codec`: of what is
    sent (rha/wire/codec.py)."""

    def __init__(
        self,
        line: Line,
        sources: Sequence[ImageReader],
        unverified: Unverified,
        *,
        rates: Callable[[], tuple[int, int]],
        check: Callable[[], None],
        codec: int,
    ) -> None:
        self._line, self._sources, self.unverified = line, list(sources), unverified
        self._rates, self._check, self._codec = rates, check, codec
        self._compressor = Compressor()
        self._asked: deque[_Asked] = deque()
        self._under_way = 0
        self._pages: dict[int, list[Range]] = {}
        self._pages_bytes = 0
        self._refinement = Refinement()
        self._reads, self._sends = Bucket(), Bucket()
        self._is_judging = False
        self._found: list[tuple[int, int, int]] = []
        self.tally = Tally()

    def bring(self, ranges: Sequence[Sequence[Range]]) -> Tally:
        """Makes these ranges of the receiver's disks what is read here. They are on the disks once the receiver has
        been told to `sync`. Raises NetworkError, StorageError, BadFrame, and what `check` raises."""
        self._is_judging = False
        return self._run(ranges)

    def differences(self, ranges: Sequence[Sequence[Range]]) -> list[tuple[int, int, int]]:
        """Compares only: disk, offset and length of what differs. Raises as `bring`."""
        self._is_judging, self._found = True, []
        self._run(ranges)
        return self._found

    def _run(self, ranges: Sequence[Sequence[Range]]) -> Tally:
        self.tally = Tally(total=sum(length for disk in ranges for _, length in disk))
        for disk, own in enumerate(ranges):
            for window in windows(own):
                self._ask(disk, _BLOCKS, window)
        while self._asked or self._pages:
            if not self._asked:
                self._ask_pages()
            self._take_answer()
        return self.tally

    def _ask(self, disk: int, unit: int, window: list[Range]) -> None:
        size = sum(length for _, length in window)
        while self._asked and self._under_way + size > UNDER_WAY_BYTES:
            self._take_answer()
        self._line.want(disk, unit, window)
        self._under_way += size
        for offset, length in window:
            for at in range(offset, offset + length, PIECE_BYTES):
                self._asked.append(_Asked(disk, at, min(PIECE_BYTES, offset + length - at), unit))

    def _ask_pages(self) -> None:
        pages, self._pages, self._pages_bytes = self._pages, {}, 0
        for disk, ranges in pages.items():
            for window in windows(ranges):
                self._ask(disk, FLAG_PAGES, window)

    def _take_answer(self) -> None:
        asked, (disk, offset, unit, theirs) = self._asked[0], self._line.hashes()
        bytes_ = UNITS[asked.unit]
        expected = (asked.disk, asked.offset, asked.unit, DIGEST_BYTES * -(-asked.length // bytes_))
        if (disk, offset, unit, len(theirs)) != expected:
            raise BadFrame("the receiver answers another question", cause=f"disk {disk} at {offset}, unit {unit}")
        self._asked.popleft()
        self._under_way -= asked.length
        self._check()
        self._wait(self._reads, asked.length, self._rates()[0])
        content = self._sources[disk].read(offset, asked.length)
        view = memoryview(content)
        self._judge(asked, view, differing(digests(view, bytes_), theirs))

    def _judge(self, asked: _Asked, view: memoryview, flags: bytes) -> None:
        unit = UNITS[asked.unit]
        if unit == BLOCK_BYTES:
            self.tally.compared += asked.length
        for first, count, differs in runs(flags):
            at = first * unit
            length = min(count * unit, asked.length - at)
            if differs and self._is_judging:
                self._found.append((asked.disk, asked.offset + at, length))
            elif differs and unit == BLOCK_BYTES and self._refinement.is_worth():
                self._later(asked.disk, asked.offset + at, length)
            elif not differs and unit == BLOCK_BYTES:
                self.unverified.remove(asked.disk, asked.offset + at, length)
            elif differs:
                self._send(asked.disk, asked.offset + at, view[at : at + length])
        if unit == PAGE_BYTES:
            self._refinement.learn(asked.length, sum(flags) * PAGE_BYTES)

    def _later(self, disk: int, offset: int, length: int) -> None:
        """To be asked about by pages."""
        self._pages.setdefault(disk, []).append((offset, length))
        self._pages_bytes += length
        if self._pages_bytes >= PAGES_BYTES:
            self._ask_pages()

    def _send(self, disk: int, offset: int, data: memoryview) -> None:
        self.unverified.add(disk, offset, len(data))
        self.tally.differing += len(data)
        if hashing.is_zero(data):
            self._line.send_zeros(disk, offset, len(data))
            return
        packed = self._compressor.pack(self._codec, bytes(data))
        self._wait(self._sends, len(packed.payload), self._rates()[1])
        self._line.send(disk, offset, packed)

    def _wait(self, bucket: Bucket, size: int, rate: int) -> None:
        """Waits until as much may pass."""
        now = time.monotonic()
        if rate != bucket.rate:
            bucket.set_rate(rate, now)
        while wait := bucket.wait_seconds(time.monotonic()):
            self._check()
            time.sleep(min(wait, 0.2))
        bucket.spend(size, time.monotonic())


def windows(ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """The ranges in portions of at most WINDOW_BYTES and WINDOW_RANGES; a long range is cut at whole pieces."""
    window: list[Range] = []
    room = WINDOW_BYTES
    for offset, length in ranges:
        while length:
            part = min(length, room)
            window.append((offset, part))
            offset, length, room = offset + part, length - part, room - part
            if room < PIECE_BYTES or len(window) == WINDOW_RANGES:
                yield window
                window, room = [], WINDOW_BYTES
    if window:
        yield window
