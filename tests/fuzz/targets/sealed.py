"""Encrypted segments: as bytes, with a wrong head, and with right seals around frames that are not."""

from __future__ import annotations

from pathlib import Path

import harness
from targets.journal import go_on, make

from rha.journal.folder import segment_path
from rha.journal.sealing import Keyring, Sealed, make_key

KEY = make_key(bytes(32))
NAME = segment_path(Path(), 0).name


def run(data: bytes, folder: Path) -> None:
    if len(data) < 5:
        return
    mode, flip, durable = data[0], int.from_bytes(data[1:3], "little"), int.from_bytes(data[3:5], "little")
    body = data[5:] if mode & 1 else sealed(data[5:], raw=bool(mode & 2))
    if mode & 4 and body:
        changed = bytearray(body)
        changed[flip % len(changed)] ^= 1 + (mode >> 4)
        body = bytes(changed)
    make(folder, [body], durable if mode & 8 else 0)
    go_on(folder, Keyring(KEY))


def sealed(data: bytes, *, raw: bool) -> bytes:
    """The frames in a right seal. `raw`: their headers are as they come, right or not."""
    seal = Sealed(KEY, bytes(32), NAME)
    found = bytearray(seal.head)
    parts = [data[:72], data[72:]] if raw else list(harness.frames_of(data))
    for part in [b"".join(parts)] if raw else parts:
        found += b"".join(bytes(one) for one in seal.pack([part[:72], part[72:]], len(found)))
    return bytes(found)
