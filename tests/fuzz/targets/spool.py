"""The master's spool file as a crash, or somebody, may have left it: chunks that count are read back as they were
written, or the spool is called damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rha import hashing
from rha.engine import spool
from rha.engine.spool import Spool
from rha.errors import RhaError

SIZE = 1 << 20
GENERATION = "5" * 32


def run(data: bytes, folder: Path) -> None:
    """Mode, the ring's release position, entries of the table (their checksums set right with mode 1), then data."""
    if len(data) < 10:
        return
    mode, released, count = data[0], int.from_bytes(data[1:9], "little"), data[9]
    entries, rest = data[10 : 10 + 64 * count], data[10 + 64 * count :]
    path = folder / "spool"
    Spool.open(path, SIZE, GENERATION, 0).close()
    with path.open("r+b") as file:
        if mode & 2:
            file.write(rest[: spool.HEAD_BYTES])
        file.seek(spool.HEAD_BYTES)
        file.write(right(entries) if mode & 1 else entries)
        file.seek(spool.HEAD_BYTES + SIZE // spool.BYTES_PER_ENTRY * spool.ENTRY_BYTES)
        file.write(rest)
    one = Spool.open(path, SIZE, GENERATION, released)
    try:
        use(one, released)
    finally:
        one.close()


def right(entries: bytes) -> bytes:
    found = b""
    for at in range(0, len(entries) - 63, 64):
        body = entries[at : at + 32] + bytes.fromhex(GENERATION) + bytes(8)
        found += body + hashing.xxh3(body).to_bytes(8, "little")
    return found


def use(one: Spool, released: int) -> None:
    at = one.oldest
    while at is not None and (chunk := one.find(at)):
        assert chunk.end <= released
        with contextlib.suppress(RhaError):
            assert hashing.xxh3(one.read(chunk)) == chunk.total
        at = chunk.end
    begin = one.end
    if begin < 1 << 62 and one.room(begin, 0) >= 4096:
        chunk = one.write(begin, b"x" * 4096, 1)
        one.sync()
        one.add(chunk)
        assert one.read(chunk) == b"x" * 4096
