"""What must outlast a power cut: a folder's names, a file's content, a small file that is replaced as a whole.

Everything here raises OSError: whoever writes knows what to say about it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Names that were made, changed or removed in it are on stable storage."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """What anybody has written to it is on stable storage."""
    _sync(path, 0)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def replace(path: Path, content: bytes) -> None:
    """After a crash or a failure the old or the new content is there; of a failure nothing else is left."""
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
