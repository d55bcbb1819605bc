"""The rows that the client commits, and its log of acknowledged commits.

A row is a pure function of its number, so that the comparison needs nothing but the log.
"""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path
from typing import NamedTuple, TextIO

SMALLEST_PAYLOAD_BYTES = 200
LARGEST_PAYLOAD_BYTES = 8192


class Ack(NamedTuple):
    """A commit that the database acknowledged. `time`: seconds since the epoch, taken after the answer came."""

    id: int
    time: float
    payload_bytes: int


def payload(row: int) -> bytes:
    """The incompressible payload of a row, 200 bytes to 8 KiB: some stay in the heap, some go to the TOAST table."""
    source = random.Random(row)
    return source.randbytes(source.randint(SMALLEST_PAYLOAD_BYTES, LARGEST_PAYLOAD_BYTES))


def checksum(content: bytes) -> str:
    """What the row itself says about its payload (SHA-256, hexadecimal)."""
    return hashlib.sha256(content).hexdigest()


def is_intact(row: int, stored_checksum: str, content: bytes) -> bool:
    """True when the row holds what the client sent: by its own checksum and by its number."""
    return checksum(content) == stored_checksum and content == payload(row)


class AckLog:
    """Acknowledged commits, in memory and in a file outside the watched disk: one line `id time bytes` each."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._acks: list[Ack] = []
        self._file: TextIO = path.open("w", buffering=1, encoding="ascii")

    def add(self, ack: Ack) -> None:
        """Called by the client's thread after each answer."""
        with self._lock:
            self._acks.append(ack)
            self._file.write(f"{ack.id} {ack.time:.6f} {ack.payload_bytes}\n")

    def acks(self) -> list[Ack]:
        """A copy of everything so far."""
        with self._lock:
            return list(self._acks)

    def __len__(self) -> int:
        return len(self._acks)

    def close(self) -> None:
        self._file.close()
