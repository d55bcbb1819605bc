"""A folder for one look into a guest: sockets, libguestfs's own files, the copy of an initramfs (up to 512 MiB).

An appliance that is killed removes nothing. So each folder is locked as long as its owner lives, and the next look
removes those that nobody holds. They lie in a folder of root's: in /tmp anybody could make some that look like them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rha.errors import HostError

PLACES = Path("/var/cache/rha/guest")


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """An empty folder that other users may pass through, gone with all that is in it at the end. Raises HostError."""
    with contextlib.ExitStack() as stack:
        try:
            made = _make(stack)
        except OSError as error:
            raise HostError(f"{PLACES} cannot be used", cause=str(error), hint=f"df -h {PLACES.parent}") from error
        yield made


def _make(stack: contextlib.ExitStack) -> Path:
    """Raises OSError."""
    PLACES.mkdir(parents=True, exist_ok=True)
    PLACES.chmod(0o711)
    with _locked(PLACES):  # a new folder is not locked yet for a moment
        _sweep()
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=PLACES, prefix="")))
        stack.enter_context(_locked(made))
    made.chmod(0o711)
    return made


def _sweep() -> None:
    for left in PLACES.iterdir():
        with contextlib.suppress(BlockingIOError), _locked(left, wait=False):
            shutil.rmtree(left)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """The kernel lets go when the process ends. Raises BlockingIOError when somebody has it and `wait` is False."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)
