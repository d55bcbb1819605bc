"""What encryption at rest costs the journal: the same frames appended, made durable and read back, encrypted and in the
clear, one after the other on the same disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import figures as f
from rha.journal.sealing import Keyring, make_key
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType

Row = dict[str, object]
PAIRS = 5
TOTAL_BYTES = 256 << 20
GROUP_BYTES = 16 << 20  # one sync for each, as the appliance does under load


def measure() -> list[Row]:
    """For payloads of 4 KiB, 64 KiB and 1 MiB: MB/s in the clear, and the ratio of the encrypted journal to it."""
    return [_row(size) for size in (4 << 10, 64 << 10, 1 << 20)]


def _row(size: int) -> Row:
    plain, sealed = [], []
    for _ in range(PAIRS):
        plain.append(_speeds(size, Keyring()))
        sealed.append(_speeds(size, Keyring(make_key(os.urandom(32)))))
    row: Row = {"name": f"journal, payloads of {size >> 10} KiB", "load": f.load()}
    for number, what in enumerate(("append", "read")):
        clear = [pair[number] for pair in plain]
        row[f"{what}_mb_s"] = f.spread(clear, 0)
        row[f"{what}_sealed_of_plain"] = f.ratios([pair[number] for pair in sealed], clear)
    return row


def _speeds(size: int, keys: Keyring) -> tuple[float, float]:
    """MB/s (10^6) appended and durable, and read back (from the page cache) with all checks."""
    payload = os.urandom(size)
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "journal", keys=keys) as journal:
        return _speed(lambda: _append(journal, payload)), _speed(lambda: _read(journal))


def _speed(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return TOTAL_BYTES / 1e6 / (time.perf_counter() - begin)


def _append(journal: Journal, payload: bytes) -> None:
    for at in range(0, TOTAL_BYTES, len(payload)):
        journal.append([frames.encode(FrameType.RECORDS, payload, lsn=at), payload])
        if (at + len(payload)) % GROUP_BYTES == 0:
            journal.sync()


def _read(journal: Journal) -> None:
    for _ in journal.read(0):
        pass
