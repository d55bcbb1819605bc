"""Where redo begins after a crash: a small file that is replaced as a whole.

After a crash the images may hold more than the checkpoint says: whatever the applier had written by then. So a second
file says, after a good stop, that they hold nothing more; it goes before anything is written again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from rha import durable
from rha.decoding import from_json
from rha.errors import StorageError


class Checkpoint(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Applied and flushed to the images: the journal below `position`, the stream below `lsn`; `time_ns`: the sender's
    clock (CLOCK_REALTIME) on the last frame below it, 0 before the first."""

    position: int = 0
    lsn: int = 0
    time_ns: int = 0


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file; after a crash either the old or the new content is there. Raises StorageError."""
    try:
        durable.replace(path, msgspec.json.encode(checkpoint))
    except OSError as error:
        raise StorageError(f"checkpoint {path} cannot be written", cause=str(error), hint="df -h") from error


def load(path: Path) -> Checkpoint:
    """The checkpoint; all zeros when there is none yet.

    Raises StorageError when the file is there and cannot be read: to begin at zero might redo old over new.
    """
    try:
        return from_json(path.read_bytes(), Checkpoint)
    except FileNotFoundError:
        return Checkpoint()
    except (OSError, msgspec.MsgspecError) as error:
        hint = "move the scenario's folder aside and restart the appliance: its disks are then compared again"
        raise StorageError(f"checkpoint {path} cannot be read", cause=str(error), hint=hint) from error


def note_exact(path: Path, checkpoint: Checkpoint) -> None:
    """The images are closed, and hold nothing that is beyond this checkpoint, saved at `path`. Raises StorageError."""
    save(_exact(path), checkpoint)


def is_exact(path: Path, checkpoint: Checkpoint) -> bool:
    """Do the images hold nothing that is beyond the checkpoint? False where that is not certain."""
    try:
        return load(_exact(path)) == checkpoint
    except StorageError:
        return False


def forget_exact(path: Path) -> None:
    """The images are written to from now on. Raises StorageError."""
    try:
        _exact(path).unlink()
        durable.sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{_exact(path)} cannot be removed", cause=str(error), hint=f"ls -l {path.parent}"
        ) from error


def _exact(path: Path) -> Path:
    return path.with_suffix(".exact")
