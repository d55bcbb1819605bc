"""The window of points: intervals of undo, oldest first, and how long they are kept.

An interval begins at a checkpoint, so redo after a crash never begins before the last one; its undo file then already
knows what was touched, and what is touched for the first time by redo still has its old content. None begins within
redo: the images hold there what comes later already, and that would be kept as old.

When the window is cut (window.py), what was acknowledged is never touched: it is in the images, or in the journal above
the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from rha.appliance import catalog, undo
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.stream import StreamState
from rha.appliance.undo import Block, Head
from rha.appliance.undowriter import Reader, UndoFile
from rha.appliance.window import Limits, Usage, alarms_of, cut, free_bytes
from rha.errors import RhaError, StorageError
from rha.journal.extents import Table
from rha.journal.folder import MARK_NAME, DurableMark
from rha.journal.sealing import PLAIN_ONLY, Keyring

INTERVAL_BYTES = 512 << 20  # of journal: what is replayed forward to show a point is at most this
INTERVAL_SECONDS = 600.0
FULL_WHY = "the store's disk is full"


class Interval(NamedTuple):
    path: Path
    head: Head


class Watcher(Protocol):
    """An open point: it is told what is about to be overwritten."""

    def cover(self, blocks: Sequence[Block]) -> None: ...

    def lose(self, why: str) -> None: ...


class History:
    """One scenario's window. `before_write` and `after_checkpoint` belong to the applier's thread."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        state_at: Callable[[Checkpoint], StreamState],
        *,
        clock: Callable[[], float] = time.time,
        keys: Keyring = PLAIN_ONLY,
    ) -> None:
        """`state_at`: what the stream says where the images are; it takes the replica's lock, so it is never called
        with ours: a report takes them in the other order. `clock`: seconds since the epoch."""
        self.folder, self.limits, self._state_at, self._clock = folder, limits, state_at, clock
        self.keys = keys
        self._lock = threading.RLock()  # the fields below
        self._intervals: list[Interval] = []
        self._current: UndoFile | None = None
        self._mark: DurableMark | None = None
        self._readers: Sequence[Reader] = ()
        self._watchers: list[Watcher] = []
        self._disk_bytes: list[int] = []
        self._pinned: int | None = None  # what begins here or later is not removed
        self._held: frozenset[int] = frozenset()  # the same, until a person lets go of it
        self._begin_next = False
        self._redo_end = 0  # journal position; no interval begins below it
        self.cut_why = ""  # why the window is shorter than its time; "" when it is not
        self.lost_why = ""  # why it began anew, if it had to

    # Opening and closing --------------------------------------------------------------------------------------

    def open(self, disk_bytes: Sequence[int], saved: Checkpoint) -> None:
        """After a start. Undo that cannot be trusted is removed and `lost_why` says so: the images do not need it. On a
        full disk there are no points until there is room.

        Raises KeyMissing when undo is encrypted with another key, StorageError when what cannot be trusted cannot be
        removed.
        """
        self.close()
        self._disk_bytes = list(disk_bytes)
        try:
            for draft in self.folder.glob("*.new"):
                draft.unlink()
            found = undo.files(self.folder)
            if found or (self.folder / MARK_NAME).exists():
                self._mark = DurableMark(self.folder, fresh=not found)
            if found:
                self._reopen(found, saved)
        except (StorageError, OSError) as error:
            self._lose(f"undo damaged: {error!s}".replace("\n", "; "))

    def _reopen(self, found: list[Path], saved: Checkpoint) -> None:
        intervals = [self._interval(path) for path in found]
        first = undo.first_linked([interval.head for interval in intervals])
        assert self._mark is not None
        durable, last = self._mark.read(), intervals[-1]
        with undo.opened(last.path, self.keys) as file:
            end = undo.end_of_sound(file)
        if last.head.base + end < durable:
            raise StorageError("undo damaged", cause=f"{last.path}: sound up to byte {end}, more was durable")
        if not last.head.start.position <= saved.position:
            raise StorageError("undo of another journal", cause=f"{last.path} begins above the checkpoint")
        self._current = UndoFile.reopen(last.path, self._disk_bytes, self.keys)
        self._intervals = intervals[first:]
        for interval in intervals[:first]:  # also what is held: it is of no use without what follows
            interval.path.unlink(missing_ok=True)

    def _interval(self, path: Path) -> Interval:
        with undo.opened(path, self.keys) as file:
            return Interval(path, undo.read_head(file))

    def resume(self, readers: Sequence[Reader], redo_end: int = 0) -> None:
        """The images are open: this is how their content is read, in the applier's thread. `redo_end`: journal position
        up to which they may hold what comes later."""
        self._readers, self._redo_end = readers, redo_end

    def close(self) -> None:
        with self._lock:
            if self._current:
                self._current.close()
            if self._mark:
                self._mark.close()
            self._current = self._mark = None

    # In the applier's thread ----------------------------------------------------------------------------------

    def before_write(self, extents: Table) -> None:
        """Keeps what these extents overwrite. Raises StorageError when that is impossible but for a full disk: then
        points go, oldest first, in the end all of them."""
        if self._current is None:
            return
        while True:
            try:
                blocks = self._current.save(extents, self._readers)
                break
            except StorageError as error:
                if not _is_full(error):
                    raise
                if not self._remove(1):
                    if self._pinned is not None or self.held_start is not None:
                        raise
                    self._lose(FULL_WHY)
                    return
        with self._lock:
            for watcher in self._watchers if blocks else ():
                watcher.cover(blocks)

    def after_checkpoint(self, saved: Checkpoint) -> int:
        """Begins intervals, cuts the window. Returns the position below which no point needs the journal.

        Raises StorageError.
        """
        state = self._state_at(saved)
        with self._lock:
            self._note_durable()
            if self._is_begin_due(saved, state):
                self._begin_if_room(saved, state)
            count, why = cut(self._usage(saved), self.limits)
            count = min(count, self._removable())
            if count:
                self.cut_why = why
                self._remove(count)
            return self._intervals[0].head.start.position if self._intervals else saved.position

    def _is_begin_due(self, saved: Checkpoint, state: StreamState) -> bool:
        if saved.position < self._redo_end and not self._begin_next:  # behind a rewind nothing was applied before this
            return False
        if self._current is None:
            return state.why_not_consistent() is None
        head = self._current.head
        since = saved.position - head.start.position
        if self._begin_next or not self.keys.is_as_wanted(self._current.seal):
            return since > 0
        return since >= INTERVAL_BYTES or (since > 0 and self._clock() - head.created >= INTERVAL_SECONDS)

    def _note_durable(self) -> None:
        if not self._current or not self._mark:
            return
        try:
            self._mark.write(self._current.head.base + self._current.bytes, force=True)
        except OSError as error:
            raise StorageError("undo cannot be kept", cause=f"{self._mark.path}: {error.strerror}") from error

    def _begin_if_room(self, saved: Checkpoint, state: StreamState) -> None:
        """On a full disk the oldest points go for it; without any, the interval that is written goes on, or there are
        no points yet. Only what a rewind needs is insisted on."""
        while True:
            try:
                return self._begin(saved, state, saved.position)
            except StorageError as error:
                if not _is_full(error) or (self._begin_next and self._current):
                    raise
                self.cut_why = FULL_WHY
                if not self._remove(1):
                    return None

    def _begin(self, saved: Checkpoint, state: StreamState, before_end: int) -> None:
        before = self._current
        self._prepare()
        head = Head(
            start=saved,
            stream=state,
            before_start=before.head.start.position if before else None,
            before_end=before_end,
            base=before.head.base + before.bytes if before else 0,
            created=self._clock(),
        )
        fresh = UndoFile.create(self.folder, head, self._disk_bytes, self.keys)
        with self._lock:
            if self._begin_next:
                self._begin_next, self._pinned = False, None
            self._current = fresh
            self._intervals.append(Interval(fresh.path, head))
        if before:
            before.close()

    def _prepare(self) -> None:
        """Makes the folder and its durable mark when they are not there. Raises StorageError."""
        catalog.make_folder(self.folder)
        try:
            if self._mark is None:
                self._mark = DurableMark(self.folder, fresh=True)
        except OSError as error:
            raise StorageError("undo cannot be kept", cause=f"{self.folder}: {error.strerror}", hint="df -h") from error

    def begin_now(self, saved: Checkpoint) -> None:
        """A new interval at this checkpoint, if there are any: the images may be taken back to here, or what follows
        cannot be replayed. The images are closed, or this is the applier's thread. Raises StorageError."""
        state = self._state_at(saved)
        with self._lock:
            if self._current and self._current.head.start.position < saved.position:
                self._begin(saved, state, saved.position)

    def begin_at_next(self) -> None:
        """The next checkpoint begins an interval: what comes before it cannot be replayed from the journal. What was
        pinned for that is free then."""
        self._begin_next = True

    def pin(self, start: int | None) -> None:
        """The interval that begins here, and later ones, are needed until further notice (None)."""
        with self._lock:
            self._pinned = start

    def hold(self, starts: Collection[int]) -> None:
        """As `pin`, for the intervals that begin at these positions, whatever limits say, instead of those held before:
        the window is not cut above the oldest. Points never go for the disk's sake then: it is full before, and nothing
        is received."""
        with self._lock:
            self._held = frozenset(starts)

    @property
    def held_start(self) -> int | None:
        """The position at which the oldest interval that is held begins; None: there is none."""
        starts = (interval.head.start.position for interval in self.intervals)
        return next((start for start in starts if start in self._held), None)

    def take_back(self, position: int, now: Checkpoint) -> None:
        """The images show again what they were at a journal position where an interval began, and count as `now`: what
        was kept since then is void, older points stay. May be repeated. Raises StorageError."""
        state = self._state_at(now)
        with self._lock:
            kept = [interval for interval in self._intervals if interval.head.start.position < position]
            if not kept or not self._mark or not self._current:
                self._lose("")
                return
            for watcher in self._watchers:
                watcher.lose("a sync was dropped")
            void = self._intervals[len(kept) :]
            last = kept[-1]
            self._mark.write(last.head.base, force=True)  # first: it must not speak of what is removed
            self._current.close()
            for interval in void:
                interval.path.unlink(missing_ok=True)
            self._intervals = kept
            self._current = UndoFile.reopen(last.path, self._disk_bytes, self.keys)
            self._begin(now, state, position)

    def leave_out(self, position: int, now: Checkpoint, state: StreamState) -> None:
        """What the journal holds from a position up to `now` is never applied, and no point lies there; the images are
        closed and show what they did, which counts as `now` and `state`. Raises StorageError."""
        with self._lock:
            if self._current:
                self._begin(now, state, position)

    def _usage(self, saved: Checkpoint) -> Usage:
        heads = [interval.head for interval in self._intervals]
        now = self._clock()
        rows = [
            (now - after.created, after.base - head.base + after.start.position - head.start.position)
            for head, after in itertools.pairwise(heads)
        ]
        last = saved.position - heads[-1].start.position + self._current.bytes if heads and self._current else 0
        return Usage([age for age, _ in rows], [size for _, size in rows], last, free_bytes(self.folder.parent))

    def _remove(self, count: int) -> int:
        """Removes the oldest intervals, never the current one. Returns how many."""
        with self._lock:
            count = min(count, self._removable())
            gone, self._intervals = self._intervals[:count], self._intervals[count:]
        for interval in gone:
            interval.path.unlink(missing_ok=True)
        return count

    def _removable(self) -> int:
        """How many of the oldest intervals nobody needs; the lock is held."""
        needed = {self._pinned, *self._held}
        first = (i for i, kept in enumerate(self._intervals) if kept.head.start.position in needed)
        return max(0, min(len(self._intervals) - 1, next(first, len(self._intervals))))

    def _lose(self, why: str) -> None:
        """All points are given up; the next consistent checkpoint begins anew."""
        with self._lock:
            self.lost_why = why
            for watcher in self._watchers:
                watcher.lose(why)
            self._intervals.clear()
            if self._current:
                self._current.close()
            self._current = None
            if self._mark:
                self._mark.close()
            self._mark = None
            try:
                for path in [*undo.files(self.folder), self.folder / MARK_NAME]:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError("undo cannot be removed", cause=str(error), hint=f"ls -l {self.folder}") from error

    def forget(self, why: str) -> None:
        """Gives up all points: the images were changed by somebody else."""
        self._lose(why)

    def alarms(self, free: int) -> list[str]:
        """What a person should know before it hurts. `free`: bytes on the store's disk."""
        found = []
        if self.lost_why:
            found.append(f"older points were lost: {self.lost_why}")
        if self.cut_why:
            found.append(f"the window of points is shorter than wanted: {self.cut_why}")
        return found + alarms_of(free, self.limits.reserve)

    # Points ---------------------------------------------------------------------------------------------------

    @property
    def intervals(self) -> list[Interval]:
        """As they are at one moment. Without the lock, as `size`: it is held while the disk is asked, and a report must
        not hang with a disk."""
        return list(self._intervals)

    def size(self) -> int:
        """Bytes of undo kept."""
        intervals = self.intervals
        return self.size_from(intervals[0].head.start.position) if intervals else 0

    def size_from(self, start: int) -> int:
        """The same, of the interval that begins at a position and of later ones."""
        current, base = self._current, [kept.head.base for kept in self.intervals if kept.head.start.position >= start]
        return current.head.base + current.bytes - base[0] if current and base else 0

    def attach(self, watcher: Watcher, start: int) -> list[tuple[Path, int]]:
        """From now on the watcher is told. Returns the undo files from the interval on that begins at `start`, oldest
        first, each with its length now.

        Raises StorageError when that interval is not kept any more.
        """
        with self._lock:
            kept = [interval.path for interval in self._intervals if interval.head.start.position >= start]
            if not kept or kept[0] != undo.path_of(self.folder, start):
                raise StorageError("the point has left the window", cause=f"no undo from position {start} on")
            self._watchers.append(watcher)
            lengths = [path.stat().st_size for path in kept[:-1]]
            return list(zip(kept, [*lengths, self._current.bytes if self._current else 0], strict=True))

    def detach(self, watcher: Watcher) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._watchers.remove(watcher)


def _is_full(error: RhaError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
