"""Work beside the applier, one piece at a time: the images are written while the next batch is prepared, they are put
on stable storage ahead of a checkpoint, old journal is removed.

A checkpoint waits for a flush, and the applier waits for the checkpoint: after two seconds of random 4 KiB writes that
is half a second in which nothing is applied. So the images' files are synced first, while the applier goes on, and the
flush finds what was written meanwhile. Rejected: having the kernel begin to write out behind every batch
(`sync_file_range`): the applier then waits for the disk's queue at each batch, and neighbours that a later batch brings
are not merged; with undo 64 MB/s instead of 210 (4 KiB, random).
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Sideline:
    """Belongs to one thread; what its work needs stays until `wait` or `finish` has returned."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, work: Callable[[], object]) -> None:
        """Starts a piece of work, after the one before it. Raises what that failed of."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the owner's thread
            self._failure = error

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Until nothing runs."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """Waits until it is done. Raises what any of it has failed of, each time: the kernel tells a file of a failed
        write once only, so a flush that follows would claim success."""
        self.wait()
        if self._failure:
            raise self._failure
