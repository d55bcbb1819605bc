"""A clean state of the master, for a moment: applications held, file systems frozen, the position taken, all let go.

Whoever asked for it gets that or a refusal, never a position that only looks like it: what was held or frozen says,
when it is let go, whether it was so all the time, and only then is the position given out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rha.app.base import Where
from rha.app.held import Held, in_order
from rha.capture import above
from rha.capture.above import FileSystem
from rha.capture.device import Device
from rha.capture.freeze import Freeze
from rha.control import local
from rha.errors import DeviceError, RhaError, StateError
from rha.program import FOLDER
from rha.scenario import Quiesce, QuiesceApp, Scenario

Position = tuple[float, int]  # the master's clock, and the LSN below which every write is that was submitted before it


class Quiescer:
    """Of one engine. `position()` is asked while everything stands still; `is_ordered()`: would it count?"""

    def __init__(
        self,
        scenario: Scenario,
        devices: Sequence[Device],
        position: Callable[[], Position],
        is_ordered: Callable[[], bool],
        scripts: Path = FOLDER,
    ) -> None:
        self._scenario, self._devices = scenario, devices
        self._position, self._is_ordered = position, is_ordered
        self._where = Where(scenario.name, local.RUN_DIR / "quiesce" / scenario.name, scripts)
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        """`lsn`, `time` (the master's clock), `by`: what was brought to a clean state, `seconds`: how long no file
        system could be written to.

        One at a time: a second call waits, and makes a position of its own. Raises RhaError when something could not be
        held; then nothing is held any more.
        """
        table = self._scenario.quiesce
        if table is None:
            raise StateError(
                f"the master of {self._scenario.name} may not be quiesced",
                cause="its scenario has no table [quiesce]",
                hint="add it on the master (rha scenario sample shows it), and restart the engine",
            )
        if not self._is_ordered():
            cause = "a sync is due or running: no position is a state of the master now"
            raise StateError("the disks are not in write order", cause=cause, hint="rha status")
        with self._lock:
            return self._run(table)

    def _run(self, table: Quiesce) -> dict[str, Any]:
        systems = above.file_systems_on(self._devices)
        frozen = [system for system in systems if not is_left(system, table.leave)]
        if not frozen and not table.app:
            cause = "no file system is mounted from its disks, and [quiesce] names no application"
            raise StateError("there is nothing to be quiesced", cause=cause, hint="findmnt; [[quiesce.app]]")
        with above.opened(systems) as files:
            for file in files:
                _sync(file)  # now, and not while applications and everybody who writes wait for the freeze
        with self._held(table.app) as said, above.opened(frozen) as files:
            points = [system.point for system in frozen]
            begun = time.monotonic()
            with Freeze(files, points, table.limit) as freeze:
                now, lsn = self._position()
                freeze.thaw()
            seconds = time.monotonic() - begun
        by = [*said, *(f"{point}: frozen" for point in sorted(points))]
        return {"lsn": lsn, "time": now, "by": by, "seconds": seconds}

    @contextlib.contextmanager
    def _held(self, tables: list[QuiesceApp]) -> Iterator[list[str]]:
        """What holds the applications says. All are let go of at the end; raises what the first one then says against
        it."""
        held: list[Held] = []
        said = []
        try:
            for table in in_order(tables):
                app = Held(table, self._where)
                said.append(app.begin())
                held.append(app)
            yield said
        except BaseException:
            _let_go(held)  # what went wrong first is what is told
            raise
        for failure in _let_go(held):
            raise failure


def _let_go(held: Sequence[Held]) -> list[RhaError]:
    failures = []
    for app in reversed(held):
        try:
            app.let_go()
        except RhaError as error:
            failures.append(error)
    return failures


def is_left(system: FileSystem, leave: Sequence[str]) -> bool:
    """Is one of its mount points named?"""
    return any(mount.point in leave for mount in system.mounts)


def _sync(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(file):
        raise DeviceError("a file system cannot be synced", cause=os.strerror(ctypes.get_errno()), hint="dmesg | tail")
