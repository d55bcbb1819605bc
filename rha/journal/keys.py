"""Keys for the encryption at rest: files of random bytes, or credentials of a systemd service."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from rha.errors import ConfigError
from rha.journal.sealing import Key, Keyring, make_key

LEAST_BYTES = 32
MOST_BYTES = 4096
CREDENTIAL = "credential:"
_HINT_MAKE = "head -c 32 /dev/urandom > FILE; chmod 600 FILE"


def read_keyring(new: str, old: Sequence[str]) -> Keyring:
    """The keys of a configuration; `new` is empty when new files are to be in the clear.

    Raises ConfigError.
    """
    return Keyring(read_key(new) if new else None, [read_key(place) for place in old])


def read_key(place: str) -> Key:
    """The key of a file, or of `credential:NAME` (systemd.exec(5), LoadCredential=).

    Raises ConfigError when it is not there, too short, or open to everyone.
    """
    path = path_of(place)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read", cause=error.strerror or "", hint=f"ls -l {path}") from error
    if stat.S_IMODE(mode) & 0o007:
        raise ConfigError(f"key {path} is open to everyone", cause=stat.filemode(mode), hint=f"chmod 600 {path}")
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        cause = f"{len(secret)} bytes; it must be {LEAST_BYTES} to {MOST_BYTES}"
        raise ConfigError(f"key {path} is no key", cause=cause, hint=_HINT_MAKE)
    return make_key(secret)


def path_of(place: str) -> Path:
    """Where a key is. Raises ConfigError when there are no credentials, or a name is none."""
    if not place.startswith(CREDENTIAL):
        return Path(place)
    name = place.removeprefix(CREDENTIAL)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder or not name or "/" in name or name in (".", ".."):
        cause = "CREDENTIALS_DIRECTORY is not set" if not folder else f"{name!r} is no credential's name"
        hint = f"LoadCredential={name or 'NAME'}:FILE in the service's unit"
        raise ConfigError(f"no {place}", cause=cause, hint=hint)
    return Path(folder) / name
