"""Maintenance mode: the appliance watches and says what it would do, and never acts by itself.

`maintenance.json` in the scenario's folder, so it holds over a restart. It ends by a person's word, or by its time.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from rha.appliance import catalog

FILE = "maintenance.json"


class Pause(msgspec.Struct, kw_only=True, frozen=True):
    """`since`, `until`: this host's clock; None: until somebody ends it."""

    by: str
    reason: str
    since: float
    until: float | None = None

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until

    def sentence(self) -> str:
        """`paused by eve since 2026-11-25 17:00:00 until 2026-11-25 19:00:00 (disks are exchanged)`."""
        until = f" until {_show(self.until)}" if self.until is not None else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"paused by {self.by} since {_show(self.since)}{until}{why}"


def _show(moment: float) -> str:
    return time.strftime("%F %T", time.localtime(moment))


def load(folder: Path) -> Pause | None:
    """None: not paused. One whose time is over still stands here. Raises StorageError."""
    return catalog.load(folder / FILE, Pause)


def begin(folder: Path, pause: Pause) -> None:
    """Durable. Raises StorageError."""
    catalog.save(folder / FILE, pause)


def end(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)
