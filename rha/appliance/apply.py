"""Applying the journal to the images. It is redo: from any checkpoint on it leaves the same image.

Only what is durable is applied, so the image never runs ahead of the journal. A batch is applied completely before
a control frame behind it is shown to `on_frame`, and before anything of the next batch is written.

While one batch is written, the old content of the next one is kept. What that reads is not what is being written: undo
reads only what no batch before it has touched in the interval.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rha.appliance import checkpoint as checkpoints
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.sharing import APPLYING, Turns
from rha.appliance.sideline import Sideline
from rha.buffers import BUFFERS
from rha.errors import StateError, StorageError
from rha.image.client import ImageWriter
from rha.journal import extents
from rha.journal.extents import Table
from rha.journal.segment import Entry, Journal
from rha.wire import frames
from rha.wire.frames import FrameType

# Four times so much is held in memory: two batches, as they came and gathered.
BATCH_BYTES = 8 << 20
LEAST_BATCH_BYTES = 4 << 20  # when many scenarios wait for their turn
CHECKPOINT_BYTES = 1 << 30
CHECKPOINT_SECONDS = 2.0
# A checkpoint may find so much that is not synced yet; else it is first synced beside the applier.
AHEAD_BYTES = 64 << 20
AHEAD_ROUNDS = 3
IDLE_SECONDS = 0.2  # quiet for this long counts as idle: no flush per frame under a trickle of writes
KEEP_BYTES = 1 << 30

OnFrame = Callable[[Entry], bool]


class Keeper(Protocol):
    """Keeps what is needed to go back (rha.appliance.history.History)."""

    def before_write(self, extents: Table) -> None:
        """These extents are about to be written. What it raises stops the applier."""

    def after_checkpoint(self, saved: Checkpoint) -> int:
        """The images are flushed and the checkpoint is written. Returns the journal position from which on the journal
        must be kept, too."""


def _ignore(_: Entry) -> bool:
    """Nobody follows the control frames."""
    return False


class Applier:
    """A thread that applies one scenario's journal.

    `writers[i]` is the image of the disk that frames and records call i. They belong to the applier from `start` on,
    until `stop` has returned; it does not close them.

    `on_frame(entry)` runs in the applier's thread for HELLO, MARK, END and GAP, in order, once everything before the
    frame is in the images (not always flushed). After a crash the frames behind the checkpoint come again, so it must
    bear repetition. What it raises stops the applier. True asks for a checkpoint right behind the frame.
    """

    def __init__(
        self,
        journal: Journal,
        writers: Sequence[ImageWriter],
        checkpoint: Path,
        *,
        on_frame: OnFrame = _ignore,
        keeper: Keeper | None = None,
        keep_bytes: int = KEEP_BYTES,
        name: str = "apply",
        turns: Turns = APPLYING,
    ) -> None:
        """`keep_bytes`: journal kept behind the checkpoint; `turns`: shared with the other scenarios.

        Raises StorageError when checkpoint and journal contradict each other.
        """
        self._journal, self._writers, self._path = journal, list(writers), checkpoint
        self._on_frame, self._keeper, self._keep_bytes = on_frame, keeper, keep_bytes
        self._saved = checkpoints.load(checkpoint)
        if not journal.first <= self._saved.position <= journal.durable:
            raise StorageError(
                "checkpoint and journal do not belong together",
                cause=f"{checkpoint} is at position {self._saved.position}; "
                f"the journal in {journal.folder} holds {journal.first} to {journal.durable}",
                hint="move the scenario's folder aside and restart the appliance: its disks are then compared again",
            )
        self._turns, self._name = turns, name
        self._sizes = [writer.bytes for writer in self._writers]
        self._batch, self._spare = self._new_batches()  # the spare one may still be on its way into the images
        self._applied = self._taken = self._saved  # everything up to `_taken` is on its way
        self._dirty_since: float | None = None  # monotonic; set iff something was taken and is not flushed
        self._dirty_bytes = 0
        self._writing, self._ahead = Sideline(f"write-{name}"), Sideline(f"sync-{name}")
        self._trimming = Sideline(f"trim-{name}")
        self._ahead_rounds = self._ahead_bytes = 0  # since the last checkpoint; of _dirty_bytes
        self._news = threading.Condition()  # guards the fields below, and announces changes of _applied
        self._durable = journal.durable
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def durable(self, position: int) -> None:
        """Says that the journal is durable up to this position; never blocks. Raises what the applier died of."""
        with self._news:
            self._raise_failure()
            self._durable = max(self._durable, position)
            self._news.notify_all()

    @property
    def applied(self) -> Checkpoint:
        """How far the images are, at one moment (not always flushed)."""
        return self._applied

    @property
    def applied_position(self) -> int:
        """Journal position below which everything is in the images (not always flushed)."""
        return self._applied.position

    @property
    def applied_lsn(self) -> int:
        """Stream position below which everything is in the images."""
        return self._applied.lsn

    @property
    def applied_time_ns(self) -> int:
        """The sender's CLOCK_REALTIME on the last frame applied; 0 before the first."""
        return self._applied.time_ns

    @property
    def saved(self) -> Checkpoint:
        """The last checkpoint: what redo would begin with."""
        return self._saved

    @property
    def failure(self) -> BaseException | None:
        """What the applier died of; None while it lives and after a good stop."""
        return self._failure

    @property
    def is_healthy(self) -> bool:
        """It runs, and nothing has gone wrong."""
        return self._failure is None and self._thread.is_alive()

    def wait_applied(self, position: int, timeout: float | None = None) -> bool:
        """Waits until everything below the journal position is in the images; False when the time (seconds) is over.

        Raises what the applier died of, StateError when it was stopped before it came there.
        """

        def settled() -> bool:
            return self._failure is not None or self._applied.position >= position or not self._thread.is_alive()

        deadline = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not settled():
                left = 1.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(min(left, 1.0))
            self._raise_failure()
            if self._applied.position < position:
                raise StateError("the applier was stopped", cause=f"it is at {self._applied.position}, not {position}")
            return True

    def stop(self) -> None:
        """Finishes the batch at hand, flushes, writes the checkpoint, ends the thread.

        Raises what the applier died of.
        """
        with self._news:
            self._stopping = True
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        with self._news:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._checkpoint()
            self._trimming.finish()
        except BaseException as error:  # noqa: BLE001 - whatever it was: a dead applier must not look healthy
            with self._news:
                self._failure = error
        finally:
            for work in (self._writing, self._ahead, self._trimming):  # images and journal are closed next
                work.wait()
            with self._news:
                self._news.notify_all()

    def _step(self) -> bool:
        """Applies one batch, or waits for news or for the next checkpoint's time. False: it is time to stop."""
        position = self._taken.position
        with self._news:
            if self._stopping:
                return False
            # What is announced to others meanwhile does not end the quiet.
            self._news.wait_for(lambda: self._durable > position or self._stopping, self._idle_wait())
            limit = self._durable
        if limit > position:
            with self._turns.turn(self._name):
                self._apply_until(limit)
                if self._turns.is_waited_for:
                    self._writing.finish()  # many at a time need too much memory
                self._turns.serve(self._name, self._taken.position - position)
        elif self._dirty_since is not None and not self._stopping:
            self._checkpoint()
            # What these have grown to is other scenarios' memory while this one is idle.
            self._batch, self._spare = self._new_batches()
            BUFFERS.drain()
        if self._is_checkpoint_due() and not self._is_synced_ahead():
            self._checkpoint()
        return True

    def _new_batches(self) -> tuple[extents.Batch, extents.Batch]:
        return extents.Batch(self._sizes), extents.Batch(self._sizes)

    def _idle_wait(self) -> float | None:
        return None if self._dirty_since is None else IDLE_SECONDS

    def _is_checkpoint_due(self) -> bool:
        if self._dirty_since is None:
            return False
        return self._dirty_bytes >= CHECKPOINT_BYTES or time.monotonic() - self._dirty_since >= CHECKPOINT_SECONDS

    def _is_synced_ahead(self) -> bool:
        """True while the images are synced beside the applier, since a checkpoint would take long now."""
        if self._ahead.is_busy:
            return self._dirty_bytes < 2 * CHECKPOINT_BYTES  # else the disk does not keep up: the applier waits for it
        if self._ahead_rounds == AHEAD_ROUNDS or self._dirty_bytes - self._ahead_bytes < AHEAD_BYTES:
            return False
        self._ahead_rounds += 1
        self._ahead_bytes = self._dirty_bytes
        self._ahead.begin(self._sync_ahead)
        return True

    def _sync_ahead(self) -> None:
        for writer in self._writers:
            writer.sync_ahead()

    def _apply_until(self, limit: int) -> None:
        """Applies frames below the durable position, at most one batch; a control frame ends it too."""
        reached, size, is_due = self._taken, 0, False
        most = self._turns.part_of(BATCH_BYTES, LEAST_BATCH_BYTES)
        for entry in self._journal.follow(reached.position, limit):
            control = entry.header.type not in (FrameType.RECORDS, FrameType.RESYNC)
            if control:
                self._write(reached)
                self._writing.finish()
                is_due = self._on_frame(entry)
            else:
                self._take(entry, reached)
            reached = _after(entry, reached)
            size += entry.header.length
            if control or size >= most:
                break
        self._write(reached)
        if is_due:
            self._checkpoint()

    def _take(self, entry: Entry, reached: Checkpoint) -> None:
        """Adds a data frame to the batch. Raises StorageError when it cannot be right."""
        header = entry.header
        payload = entry.payload[: header.raw_length]
        if header.type is FrameType.RECORDS:
            if header.lsn < reached.lsn:
                raise StorageError(
                    "the journal is out of order",
                    cause=f"position {entry.position}: records at LSN {header.lsn}, already applied to {reached.lsn}",
                )
            self._batch.add_records(payload)
        elif header.flags & frames.FLAG_ZEROS:
            self._batch.add_zeros(header.disk, header.offset, frames.zeros_length(payload))
        else:
            self._batch.add_range(header.disk, header.offset, payload)

    def _write(self, reached: Checkpoint) -> None:
        """Keeps what the batch overwrites, and has it written once the batch before it is in the images."""
        if reached == self._taken:
            return
        found, data = self._batch.reduce()
        if self._keeper and len(found):
            self._keeper.before_write(found)
        self._writing.finish()
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()
        self._dirty_bytes += len(data)
        self._taken, batch = reached, self._batch
        self._batch, self._spare = self._spare, batch
        self._writing.begin(lambda: self._write_out(batch, found, data, reached))

    def _write_out(self, batch: extents.Batch, found: Table, data: memoryview, reached: Checkpoint) -> None:
        """Writes the batch, then tells how far the images are. Beside the applier's thread."""
        write_batch(self._writers, found, data)
        batch.clear()
        self._journal.forget(reached.position)
        with self._news:
            self._applied = reached
            self._news.notify_all()

    def _checkpoint(self) -> None:
        """Flushes the images, notes how far they are, and gives old journal back."""
        if self._dirty_since is None:
            return
        self._writing.finish()
        self._ahead.finish()
        for writer in self._writers:
            writer.flush()
        checkpoints.save(self._path, self._applied)
        self._saved = self._applied
        self._dirty_since, self._dirty_bytes = None, 0
        self._ahead_rounds = self._ahead_bytes = 0
        needed = self._keeper.after_checkpoint(self._saved) if self._keeper else self._saved.position
        before = max(0, min(needed, self._saved.position - self._keep_bytes))
        # Removing a segment of 256 MiB takes a file system longer than writing a batch.
        self._trimming.begin(lambda: self._journal.trim(before))


def write_batch(writers: Sequence[ImageWriter], found: Table, data: memoryview) -> None:
    """Writes extents that are sorted by disk; they are in the images when this returns. Raises StorageError."""
    for disk, mine in extents.by_disk(found):
        writers[disk].write_batch(mine, data)
    for writer in writers:
        writer.drain()


def _after(entry: Entry, before: Checkpoint) -> Checkpoint:
    """How far the images are once this frame is applied, too."""
    header = entry.header
    lsn = max(before.lsn, header.lsn + (header.raw_length if header.type is FrameType.RECORDS else 0))
    return Checkpoint(position=entry.next_position, lsn=lsn, time_ns=max(header.time_ns, before.time_ns))
