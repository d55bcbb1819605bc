"""The journal: the durable stream of one scenario on the appliance, in append-only files. See docs/journal.md."""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from rha.errors import StorageError
from rha.hashing import Buffer
from rha.journal import reader
from rha.journal.folder import DurableMark, Segment, damaged, lock, pwrite_all, segment_path, segments
from rha.journal.reader import Entry, FrameFile, Place
from rha.journal.sealing import PLAIN_ONLY, Keyring, Plain, Seal
from rha.journal.tail import Tail
from rha.wire import frames

SEGMENT_BYTES = 256 << 20
MARK_SECONDS = 1.0  # how far the durable mark's own sync may lag behind

__all__ = ["Entry", "Journal"]


class Journal:
    """Frames as they came over the wire, one after another; a *position* counts the bytes ever appended.

    One thread appends, another may read, a third may sync. After a failed sync or a failed clean-up nothing more is
    taken: what the kernel could not write it may have forgotten, and a second sync would not tell.
    """

    def __init__(self, folder: Path, lock_file: int, segment_bytes: int, keys: Keyring) -> None:
        """Not for callers: use `Journal.open`."""
        self.folder = folder
        self.cut_bytes = 0
        self._folder_file = lock_file
        self._segment_bytes, self._keys = segment_bytes, keys
        self._lock = threading.Lock()  # the fields below
        self._sync_lock = threading.Lock()  # one sync, one change of segment at a time; taken before _lock
        self._segments: list[Segment] = []
        self._file = -1
        self._seal: Seal = Plain()
        self._end = self._durable = 0
        self._tail = Tail()
        self._broken: StorageError | None = None
        self._asked_at: float | None = None  # monotonic; when the disk was asked for what it has not done yet
        self._mark_forced = time.monotonic()

    @classmethod
    def open(cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, keys: Keyring = PLAIN_ONLY) -> Self:
        """Takes the folder for this process and cuts off what a crash left half written (`cut_bytes`).

        Raises StorageError: "two appliances on one store", or "journal damaged" when bytes that were durable are
        wrong or gone. Raises KeyMissing when `keys` cannot read all of it.
        """
        journal = cls(folder, lock(folder), segment_bytes, keys)
        try:
            journal._recover()
        except OSError as error:
            journal.close()
            raise StorageError(f"journal in {folder} cannot be opened", cause=str(error)) from error
        except BaseException:
            journal.close()
            raise
        return journal

    def _recover(self) -> None:
        self._segments = segments(self.folder, self._keys)
        self._mark: DurableMark = DurableMark(self.folder, fresh=not self._segments)
        if not self._segments:
            self._add_segment(0)
            return
        for segment in self._segments[:-1]:
            FrameFile(segment).close()  # a key that is missing is told now, and not when the segment is needed
        durable, last = self._mark.read(), self._segments[-1]
        with FrameFile(last) as file:
            found, why = reader.sound_end(file)
            self._seal = file.seal
        end = last.start + found
        if end < durable:
            raise damaged(last.path, found, why or f"the file ends here; {durable - end} bytes were durable after it")
        self._cut(last, end)
        self._mark.write(end, force=True)
        if end > last.start and not self._keys.is_as_wanted(self._seal):
            self._add_segment(end)

    def _cut(self, last: Segment, end: int) -> None:
        """Takes what is torn off the last segment, and goes on behind it; what is left is on stable storage then."""
        self._file = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
        self.cut_bytes = last.start + os.fstat(self._file).st_size - end
        os.ftruncate(self._file, end - last.start)
        if end == last.start:
            self._seal = self._keys.begin(last.path.name)
        os.fsync(self._file)
        os.fsync(self._folder_file)
        self._end = self._durable = end

    def _add_segment(self, start: int) -> None:
        path = segment_path(self.folder, start)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(self._folder_file)
        except OSError:  # the next try makes it again
            os.close(file)
            path.unlink()
            raise
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._seal = file, self._keys.begin(path.name)
            self._segments.append(Segment(start, path, self._keys))

    @property
    def first(self) -> int:
        """The oldest position kept."""
        with self._lock:
            return self._segments[0].start

    @property
    def end(self) -> int:
        """Position after the last frame appended."""
        with self._lock:
            return self._end

    @property
    def durable(self) -> int:
        """Everything below this position is on stable storage."""
        with self._lock:
            return self._durable

    def append(self, parts: Sequence[Buffer]) -> int:
        """Writes one checked frame, given in any number of parts, and returns the position after it. The parts must not
        change afterwards: `follow` may still show them.

        Raises ValueError when the parts are not exactly one frame, StorageError when the disk does not take it; the
        journal then still ends where it ended.
        """
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(map(len, views))
        header = frames.decode_header(views[0][: frames.HEADER_BYTES])
        if length != frames.HEADER_BYTES + header.length:
            raise ValueError(f"{length} bytes are not one frame of {frames.HEADER_BYTES} + {header.length}")
        self._refuse_when_broken()
        try:
            with self._asking():
                written = self._write(views, length)
        except OSError as error:
            raise self._not_written(error) from error
        payload = views[1] if len(views) == 2 else memoryview(b"".join(views))[frames.HEADER_BYTES :]
        with self._lock:
            entry = Entry(self._end, header, payload, self._end + written)
            self._end = entry.next_position
        self._tail.add(entry)
        return entry.next_position

    def _write(self, views: list[memoryview], length: int) -> int:
        """Returns how many bytes the frame takes; the first of a segment brings the segment's head."""
        offset = self._end - self._segments[-1].start
        if offset and offset + length + self._seal.extra_bytes > self._segment_bytes:
            # The old segment is durable before the new one exists: only the last segment can ever be torn.
            self.sync()
            with self._sync_lock:
                self._add_segment(self._end)
            offset = 0
        head = self._seal.head if offset == 0 else b""
        parts = [head, *self._seal.pack(views, offset + len(head))]
        pwrite_all(self._file, parts, offset)
        return sum(map(len, parts))

    def _not_written(self, error: OSError) -> StorageError:
        """Takes the half-written frame away again; the journal is broken when even that fails."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        refusal = StorageError(
            "the journal's disk is full" if full else "the journal cannot be written",
            cause=f"{self._segments[-1].path}: {error.strerror}",
            hint=f"df -h {self.folder}",
        )
        try:
            os.ftruncate(self._file, self._end - self._segments[-1].start)
        except OSError as again:
            self._broken = refusal
            refusal.cause += f"; the half-written frame could not be cut off: {again.strerror}"
        return refusal

    def sync(self) -> int:
        """Puts everything appended on stable storage; returns the durable position.

        Raises StorageError when the disk refuses; every later call then does too.
        """
        with self._sync_lock:
            self._refuse_when_broken()
            with self._lock:
                end, file = self._end, self._file
                if end == self._durable:
                    return end
            try:
                with self._asking():
                    os.fdatasync(file)
                    self._note_durable(end)
            except OSError as error:
                self._broken = StorageError(
                    "the journal cannot be made durable",
                    cause=f"{self._segments[-1].path}: {error.strerror}",
                    hint="look for disk errors in the kernel's log (dmesg), then restart the appliance",
                )
                raise self._broken from error
            with self._lock:
                self._durable = end
            return end

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        begun = self._asked_at is None
        if begun:
            self._asked_at = time.monotonic()
        try:
            yield
        finally:
            if begun:
                self._asked_at = None

    @property
    def stuck_seconds(self) -> float:
        """For how long the disk has not answered a write or a sync; 0 when none is under way."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def _note_durable(self, end: int) -> None:
        now = time.monotonic()
        force = now - self._mark_forced >= MARK_SECONDS
        self._mark.write(end, force=force)
        if force:
            self._mark_forced = now

    def _refuse_when_broken(self) -> None:
        if self._broken:
            raise self._broken

    def read(self, start: int, limit: int | None = None) -> Iterator[Entry]:
        """The frames from position `start` that begin below `limit` (default: the end now), checked.

        Raises StorageError when the position is no longer kept or a frame is damaged.
        """
        for segment, first, end in self._spans(start, limit):
            yield from reader.entries(segment, first, end)

    def follow(self, start: int, limit: int) -> Iterator[Entry]:
        """As `read`, for the one reader who goes on where he stopped and says so (`forget`): what was appended just now
        is still in memory. Ends where that ends; call it again."""
        yield from self._tail.run(start, limit) or self.read(start, limit)

    def forget(self, before: int) -> None:
        """Nobody will follow from below this position any more."""
        self._tail.forget(before)

    def _spans(self, start: int, limit: int | None) -> list[tuple[Segment, int, int]]:
        """The parts of segments between two positions: (segment, first, end)."""
        with self._lock:
            limit = self._end if limit is None else min(limit, self._end)
            kept = list(self._segments)
        if start < kept[0].start or start > limit:
            raise StorageError(
                f"the journal does not hold position {start}", cause=f"it holds {kept[0].start} to {limit}"
            )
        at = bisect.bisect_right(kept, start, key=lambda segment: segment.start) - 1
        ends = [segment.start for segment in kept[1:]] + [limit]
        return [
            (segment, max(start, segment.start), min(end, limit))
            for segment, end in zip(kept[at:], ends[at:], strict=True)
        ]

    def scan(self, start: int, limit: int | None = None) -> Iterator[Place]:
        """As `read`, without the payloads, whose checksums are not looked at: `Place.entry` reads one."""
        for segment, first, end in self._spans(start, limit):
            yield from reader.places(segment, first, end)

    def trim(self, before: int) -> int:
        """Removes the segments that lie wholly before the position; returns `first` after it.

        Raises StorageError when a file cannot be removed.
        """
        while True:
            with self._lock:
                if len(self._segments) < 2 or self._segments[1].start > before:
                    return self._segments[0].start
                oldest = self._segments.pop(0)
            try:
                os.unlink(oldest.path)
                # One by one and oldest first: a crash must not leave a hole.
                os.fsync(self._folder_file)
            except OSError as error:
                raise StorageError(f"{oldest.path} cannot be removed", cause=str(error)) from error

    def close(self) -> None:
        """Lets go of the files and the lock; what was not synced is left to the kernel."""
        self._tail.close()
        for file in (self._file, self._folder_file):
            if file >= 0:
                os.close(file)
        if hasattr(self, "_mark"):
            self._mark.close()
            del self._mark
        self._file = self._folder_file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
