"""The permit: until when this master may serve. A file in the run directory; the engine writes it, the sentry obeys it.

A file and not a pipe: an engine that was killed and started again goes on writing it, and the sentry that outlived it
goes on reading. `boot` makes a file of an earlier boot, whose clock is another one, worth nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from rha.decoding import from_json
from rha.errors import StorageError
from rha.scenario import Lease, decode_unit, encode_unit

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Permit(msgspec.Struct, kw_only=True, frozen=True):
    """`until` by terms.now(); `why` is valid iff it lies in the past. `engine`: its process. `lease`: what it
    serves by."""

    until: float
    why: str
    boot: str
    engine: int
    lease: Lease


class Standing(msgspec.Struct, kw_only=True, frozen=True):
    """What the sentry says of itself, in a file beside. `state`: serving, starting, ended, failed."""

    state: str
    why: str
    since: float  # terms.now()
    process: int


def boot() -> str:
    """This boot's name."""
    return BOOT_ID.read_text().strip()


def store(path: Path, value: Permit | Standing) -> None:
    """Replaces a file as a whole. Not synced: it is worth nothing after a crash of the machine. Raises StorageError."""
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(value, enc_hook=encode_unit))
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written", cause=str(error), hint=f"df -h {path.parent}") from error


def load(path: Path) -> Permit | None:
    """The permit of this boot; None when there is none. One that cannot be read is none: serving ends."""
    try:
        found = from_json(path.read_bytes(), Permit, dec_hook=decode_unit)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.boot == boot() else None


def standing(path: Path) -> Standing | None:
    """What the sentry said last, or None."""
    try:
        return from_json(path.read_bytes(), Standing)
    except (OSError, msgspec.MsgspecError):
        return None
