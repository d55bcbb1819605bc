"""The image files of one scenario while they are open: the storage daemon, the applier that writes, the readers.

A failed applier is replaced after a while, from its last checkpoint: a full disk may have been made room on. What it
failed of is named until the new one has come, flushed, past the place where the old one died.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rha.appliance import checkpoint
from rha.appliance.apply import Applier, OnFrame, write_batch
from rha.appliance.checkpoint import Checkpoint
from rha.appliance.history import History
from rha.errors import RhaError, StateError, StorageError
from rha.image.storage_daemon import ImageReader, ImageSpec, ImageWriter, StorageDaemon
from rha.journal.extents import Table
from rha.journal.segment import Journal

T = TypeVar("T")
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0


class ImageFiles:
    """Open or closed; may be asked from any thread, opened and closed by one at a time. `lock` guards the fields."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        lock: threading.RLock,
        *,
        on_frame: OnFrame,
        history: History,
        before_open: Callable[[], None] = lambda: None,
        after_open: Callable[[], None] = lambda: None,
        patience: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Closed at first. `before_open` raises RhaError when the images must not be opened; `patience`: as of a
        StorageDaemon. Raises StorageError when the checkpoint cannot be read."""
        self._patience = patience
        self._folder, self._journal, self._on_frame, self._history = folder, journal, on_frame, history
        self._before_open, self._after_open = before_open, after_open
        self._checkpoint_path = folder / "checkpoint.json"
        # The storage daemon is killed by the kernel when the thread that started it ends, so one thread lives for that.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix=f"keeper-{folder.name}")
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._read_lock = threading.Lock()  # the readers; taken after _lock, never before it
        self._readers: dict[str, ImageReader] = {}
        self._daemon: StorageDaemon | None = None
        self._writers: list[ImageWriter] = []
        self._applier: Applier | None = None
        # How far the images were when they were closed; valid while they are.
        self._closed_at = checkpoint.load(self._checkpoint_path)
        self._redo_end = self._end_of_redo()
        self._trouble: tuple[str, int] | None = None  # what an applier died of, and at which journal position
        self._retry_seconds, self._retry_at = FIRST_RETRY_SECONDS, 0.0

    @property
    def is_open(self) -> bool:
        return self._applier is not None

    @property
    def redo_end(self) -> int:
        """Journal position up to which the images may hold what comes later: an applier that died had written it."""
        return self._redo_end

    def _end_of_redo(self) -> int:
        """For closed images. Only what was durable was ever applied."""
        is_exact = checkpoint.is_exact(self._checkpoint_path, self._closed_at)
        return self._closed_at.position if is_exact else self._journal.durable

    def open(self, specs: Sequence[ImageSpec]) -> None:
        """Opens images that exist, and goes on applying. Raises StorageError, and what `before_open` raises; then it is
        to be mended."""
        try:
            self._before_open()
            self._open(specs)
        except RhaError as error:
            self._note_trouble(error, self._closed_at.position)
            raise
        self._after_open()

    def _open(self, specs: Sequence[ImageSpec]) -> None:
        daemon = StorageDaemon(specs, self._folder / "run", patience=self._patience())
        self._keep(daemon.start)
        writers: list[ImageWriter] = []
        try:
            writers += [daemon.writer(spec.name) for spec in specs]
            beside = zip(specs, writers, strict=True)
            readers = [daemon.reader(spec.name, beside=writer) for spec, writer in beside]
            self._redo_end = self._end_of_redo()
            checkpoint.forget_exact(self._checkpoint_path)
            self._history.resume(readers, self._redo_end)
            applier = Applier(
                self._journal,
                writers,
                self._checkpoint_path,
                on_frame=self._on_frame,
                keeper=self._history,
                keep_bytes=0,
                name=f"apply-{self._folder.name}",
            )
        except BaseException:
            self._let_go(writers, daemon)
            raise
        with self._changed:
            self._daemon, self._writers, self._applier = daemon, writers, applier
            self._closed_at = applier.saved
            self._changed.notify_all()
        applier.start()
        applier.durable(self._journal.durable)

    def _keep(self, act: Callable[[], T]) -> T:
        """Runs something in the thread that lives as long as this object."""
        return self._keeper.submit(act).result()

    def _let_go(self, writers: Sequence[ImageWriter], daemon: StorageDaemon | None) -> None:
        for writer in writers:
            writer.close()
        if daemon:
            self._keep(daemon.stop)

    def close(self) -> None:
        """Finishes the batch at hand, writes the checkpoint, lets go of the images. Raises StorageError, with the
        images closed all the same."""
        with self._lock:
            applier, daemon, writers = self._applier, self._daemon, self._writers
            if applier:  # a report between here and the checkpoint must not fall back to an older one
                self._closed_at = applier.applied
            self._applier = self._daemon = None
            self._writers = []
        with self._read_lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        try:
            if applier:
                applier.stop()
                with contextlib.suppress(StorageError):  # no room: the next start is careful for nothing
                    checkpoint.note_exact(self._checkpoint_path, applier.saved)
        except BaseException as error:
            self._note_trouble(error, self._closed_at.position)
            raise
        finally:
            if applier:
                self._closed_at = applier.saved
            self._let_go(writers, daemon)

    def end(self) -> None:
        """Nothing is opened any more. Close first."""
        self._keeper.shutdown()

    def declare(self, reached: Checkpoint) -> None:
        """Says where closed images are now, other than by applying. Raises StorageError."""
        self._closed_at = reached
        checkpoint.save(self._checkpoint_path, reached)
        self._redo_end = self._end_of_redo()

    # Applying -------------------------------------------------------------------------------------------------

    @property
    def applied(self) -> Checkpoint:
        """How far the images are (not always flushed)."""
        applier = self._applier
        return applier.applied if applier else self._closed_at

    def durable(self, position: int) -> None:
        """Lets the applier go on to here. A failed one is left to `mend`: receiving goes on without it."""
        applier = self._applier
        if applier and applier.failure is None:
            with contextlib.suppress(RhaError):  # it may have died since; `failure` names that
                applier.durable(position)

    def wait_applied(self, position: int, timeout: float | None = None) -> bool:
        """Waits for images that hold everything below a journal position. False when the time is over.

        Raises what the applier died of, StateError when the images are closed.
        """
        with self._lock:
            applier = self._applier
        if applier is None:
            raise StateError("the images are closed", cause="a merge failed, or they are in other hands")
        return applier.wait_applied(position, timeout)

    def wait_open(self, is_hopeless: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until the images are open, or will not be. Returns whether they are."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_open or is_hopeless(), timeout)
            return self.is_open

    def write_back(self, found: Table, data: memoryview) -> None:
        """Writes what is not in the journal; in the applier's thread, from `on_frame`. `found`: sorted by disk; `data`:
        what their `data` counts in. Raises StorageError."""
        self._history.before_write(found)
        write_batch(self._writers, found, data)

    def notify(self) -> None:
        """Lets `wait_open` look again."""
        with self._changed:
            self._changed.notify_all()

    def read_into(self, name: str, offset: int, buffer: memoryview) -> bool:
        """Fills the buffer with bytes of an image as it is now; False while the images are closed. StorageError."""

        def read(reader: ImageReader) -> bool:
            reader.read_into(offset, buffer)
            return True

        return bool(self._ask(name, read))

    def used(self, name: str, offset: int, length: int) -> list[tuple[int, int]] | None:
        """The parts that do not surely read as zeros; None while the images are closed. Raises StorageError."""
        return self._ask(name, lambda reader: list(reader.used(offset, length)))

    def _ask(self, name: str, question: Callable[[ImageReader], T]) -> T | None:
        with self._read_lock:
            daemon = self._daemon
            if daemon is None:
                return None
            if name not in self._readers:
                self._readers[name] = daemon.reader(name, aside=self._writer_of(name))
            return question(self._readers[name])

    def _writer_of(self, name: str) -> ImageWriter | None:
        return next((writer for writer in self._writers if writer.name == name), None)

    # Failing and going on -------------------------------------------------------------------------------------

    def failure(self) -> str | None:
        """What an applier died of, as a sentence, until that is overcome."""
        with self._lock:
            applier = self._applier
            if applier and applier.failure:
                self._note_trouble(applier.failure, applier.applied.position)
            if self._trouble and applier and not applier.failure and applier.saved.position >= self._trouble[1]:
                self._trouble, self._retry_seconds = None, FIRST_RETRY_SECONDS
            return self._trouble[0] if self._trouble else None

    def _note_trouble(self, failure: BaseException, position: int) -> None:
        sentence = str(failure).replace("\n", "; ") or repr(failure)
        if self._trouble is None:
            self._retry_at = time.monotonic() + self._retry_seconds
        self._trouble = (sentence, max(position, self._trouble[1] if self._trouble else 0))

    def is_mending_due(self) -> bool:
        """True when it is time to `mend`."""
        with self._lock:
            self.failure()
            failed = self._trouble is not None and (self._applier is None or self._applier.failure is not None)
            return failed and time.monotonic() >= self._retry_at

    def mend(self, specs: Sequence[ImageSpec]) -> None:
        """Opens the images anew after a failure; redo begins at the last checkpoint. Raises StorageError when they
        cannot be opened; then, too, it is due again later."""
        with self._lock:
            self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
            self._retry_at = time.monotonic() + self._retry_seconds
        with contextlib.suppress(RhaError):  # the failure that is mended here
            self.close()
        self.open(specs)
