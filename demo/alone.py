"""One run at a time, and an orderly end of it when it is interrupted. Demo and lab share it."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rha.errors import StateError

INTERRUPTED = 128 + 2  # as a shell reports SIGINT


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Only one of its kind runs inside the block. Raises StateError when another one does."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"a {what} is running already", cause=f"{lock} is locked") from error
        yield


def on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """For whatever asks a program to end: SIGINT, SIGTERM, SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """The handler that lets everything be cleaned up on the way out."""
    raise KeyboardInterrupt
