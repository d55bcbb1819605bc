"""What a client has written down of its commits: one JSON line each, in the order in which they were tried."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec


class Attempt(msgspec.Struct, frozen=True):
    """Row `id` was sent to `address` at `sent`; the database said yes at `acked` (seconds since the epoch, this host's
    clock). None: no answer, or a refusal, in `why`; the row may be there or not. A number is used once."""

    id: int
    sent: float
    address: str
    acked: float | None = None
    why: str = ""


def read(path: Path) -> list[Attempt]:
    """All of a file. A line that is being written is left out."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=Attempt) for line in lines if line.endswith(b"\n")]


def acknowledged(attempts: Iterable[Attempt], address: str) -> list[Attempt]:
    """Those that a server at this address has acknowledged."""
    return [one for one in attempts if one.acked is not None and one.address == address]
