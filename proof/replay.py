"""Straight replay: the recorded stream written to raw files, one operation after another, up to an LSN.

The oracle for the appliance's images, so it shares no code with them. As a program:

    python -m proof.replay JOURNAL --until LSN FILE...      (one FILE per disk, in the order of the scenario)
"""

from __future__ import annotations

import argparse
import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from proof import journal
from proof.journal import BadJournal, Change, Frame


class Interval(NamedTuple):
    """A stretch of the stream in which every disk is in write order, as its frames say: cuts with `begin` < LSN <=
    `end` are states of the master."""

    begin: int
    end: int


class Recording(NamedTuple):
    """What a journal holds. `cuts`: ends of all records that lie in one of the intervals; `losses`: GAP frames;
    `syncs`: MARK frames; `generations`: rings that sent it."""

    folder: Path
    sizes: tuple[int, ...]
    intervals: tuple[Interval, ...]
    cuts: tuple[int, ...]
    losses: int
    syncs: int
    generations: int


class _Order:
    """Follows which disks are in write order, and collects the intervals in which all are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.generation = ""
        self.ordered_from: list[int | None] = []  # per disk: in order from this LSN on; None: it is not
        self.intervals: list[Interval] = []
        self.cuts: list[int] = []
        self.count = {journal.GAP: 0, journal.MARK: 0, journal.HELLO: 0}
        self._begin: int | None = None

    def take(self, frame: Frame) -> None:
        if frame.type == journal.RECORDS:
            self._records(frame)
        elif frame.type != journal.RESYNC:
            self._control(frame)

    def _records(self, frame: Frame) -> None:
        for change in journal.changes(frame):
            begin = self._all_from()
            if begin is not None and change.end_lsn > begin:
                self._extend(max(begin, change.lsn), change.end_lsn)

    def _all_from(self) -> int | None:
        known = [lsn for lsn in self.ordered_from if lsn is not None]
        return max(known) if known and len(known) == len(self.ordered_from) else None

    def _extend(self, begin: int, end: int) -> None:
        if self._begin is None:
            self._begin = begin
            self.intervals.append(Interval(begin, end))
        self.intervals[-1] = Interval(self._begin, end)
        self.cuts.append(end)

    def _control(self, frame: Frame) -> None:
        message = frame.message()
        self.count[frame.type] = self.count.get(frame.type, 0) + 1
        if frame.type == journal.END:
            for disk in message["disks"]:
                self.ordered_from[disk] = max(frame.lsn, message["lsn"])
            return
        self._begin = None
        if frame.type == journal.HELLO:
            self.sizes = [disk["bytes"] for disk in message["disks"]]
            self.ordered_from = [None] * len(self.sizes)
        for disk in message["disks"] if frame.type == journal.MARK else ():
            self.ordered_from[disk] = None
        if frame.type == journal.GAP:
            self.ordered_from[message["disk"]] = None


def scan(folder: Path, end: int | None = None) -> Recording:
    """Reads a journal once, to position `end` or whole. Raises BadJournal, also when its beginning was trimmed."""
    order = _Order()
    if not (folder / f"{0:016x}.journal").exists():
        raise BadJournal(f"{folder} does not begin at position 0")
    for frame in journal.frames(folder, 0, end):
        order.take(frame)
    count = order.count
    return Recording(
        folder,
        tuple(order.sizes),
        tuple(order.intervals),
        tuple(order.cuts),
        count[journal.GAP],
        count[journal.MARK],
        count[journal.HELLO],
    )


class RawImages:
    """Raw files of zeros at first; `images[i]` is the memory of disk i's file, `files[i]`.

    What was never written, or discarded by whole pages, stays a hole; reading a hole through `images` fills it.
    """

    def __init__(self, files: list[Path], sizes: tuple[int, ...]) -> None:
        self.files = files
        self.images = [_image(path, size) for path, size in zip(files, sizes, strict=True)]

    def take(self, frame: Frame) -> None:
        """Writes what a frame holds."""
        if frame.type == journal.RESYNC:
            self.put(frame.disk, *journal.resync_range(frame))
        for change in journal.changes(frame) if frame.type == journal.RECORDS else ():
            self.put(change.disk, change.offset, change.length, change.data)

    def put(self, disk: int, offset: int, length: int, data: memoryview | None) -> None:
        """Writes data, or zeros. Raises BadJournal when the disk has no such range."""
        image = self.images[disk]
        if offset + length > len(image):
            raise BadJournal(f"{length} bytes at {offset} of disk {disk}, which has {len(image)}")
        if data is not None:
            image[offset : offset + length] = data
        elif offset % mmap.PAGESIZE == length % mmap.PAGESIZE == 0 and length:
            image.madvise(mmap.MADV_REMOVE, offset, length)
        else:
            image[offset : offset + length] = bytes(length)


class Follower(RawImages):
    """Follows a journal that still grows, whole frames at a time."""

    def __init__(self, folder: Path, files: list[Path], sizes: tuple[int, ...]) -> None:
        super().__init__(files, sizes)
        self._folder, self.position = folder, 0

    def to(self, position: int) -> None:
        """Takes the frames below a journal position. Raises BadJournal when it is not the end of a frame."""
        for frame in journal.frames(self._folder, self.position) if position > self.position else ():
            self.take(frame)
            self.position = frame.next_position
            if self.position >= position:
                break
        if self.position != position:
            raise BadJournal(f"no frame ends at position {position}, one ends at {self.position}")


class Replay(RawImages):
    """Moved forward to cuts in the middle of frames. `lsn`: end of the last record written."""

    def __init__(self, folder: Path, files: list[Path], sizes: tuple[int, ...]) -> None:
        super().__init__(files, sizes)
        self._steps = steps(folder)
        self.lsn = 0

    def to(self, cut: int) -> None:
        """Writes everything up to and with the record that ends at LSN `cut`. Raises BadJournal when none does."""
        while self.lsn < cut:
            if not self._step():
                raise BadJournal(f"the stream ends at LSN {self.lsn}, before {cut}")
        if self.lsn != cut:
            raise BadJournal(f"no record ends at LSN {cut}; the last one ends at {self.lsn}")

    def to_end(self) -> None:
        """Writes everything that the journal holds."""
        while self._step():
            pass

    def _step(self) -> bool:
        frame, change = next(self._steps, (None, None))
        if change:
            self.put(change.disk, change.offset, change.length, change.data)
            self.lsn = change.end_lsn
        elif frame:
            self.take(frame)
        return frame is not None


Step = tuple[Frame, Change | None]


def steps(folder: Path) -> Iterator[Step]:
    """Every operation of the journal in its order: (frame, one change of it), or (frame, None) for other frames."""
    for frame in journal.frames(folder):
        if frame.type == journal.RECORDS:
            yield from zip(itertools.repeat(frame), journal.changes(frame))
        else:
            yield frame, None


def _image(path: Path, size: int) -> mmap.mmap:
    with path.open("xb+") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def main() -> None:
    words = argparse.ArgumentParser(prog="proof.replay", description="Replays a recorded stream to raw files.")
    words.add_argument("journal", type=Path)
    words.add_argument("files", type=Path, nargs="+")
    words.add_argument("--until", type=int, help="LSN, end of a record; without it: everything")
    given = words.parse_args()
    found = scan(given.journal)
    replay = Replay(given.journal, given.files, found.sizes)
    if given.until is None:
        replay.to_end()
    else:
        replay.to(given.until)
    print(f"{len(found.cuts)} cuts in {len(found.intervals)} intervals; replayed to LSN {replay.lsn}")


if __name__ == "__main__":
    main()
