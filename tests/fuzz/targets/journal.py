"""A journal's folder as a crash, or somebody, may have left it: it opens or is called damaged, what opens can be
read to its end and gone on with."""

from __future__ import annotations

from pathlib import Path

import harness

from rha.journal.folder import DurableMark, segment_path
from rha.journal.sealing import PLAIN_ONLY, Keyring
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType


def run(data: bytes, folder: Path) -> None:
    if len(data) < 5:
        return
    mode, second, durable = data[0], int.from_bytes(data[1:3], "little"), int.from_bytes(data[3:5], "little")
    body = data[5:] if mode & 1 else b"".join(harness.frames_of(data[5:]))
    parts = [body[:second], body[second:]] if mode & 2 else [body]
    make(folder, parts, 0 if mode & 4 else durable)
    go_on(folder, PLAIN_ONLY)


def make(folder: Path, parts: list[bytes], durable: int) -> None:
    """A journal of these segments, each named by where it begins."""
    start = 0
    mark = DurableMark(folder, fresh=True)
    mark.write(durable, force=False)
    mark.close()
    for part in parts:
        segment_path(folder, start).write_bytes(part)
        start += len(part)


def go_on(folder: Path, keys: Keyring) -> None:
    with Journal.open(folder, keys=keys, segment_bytes=4096) as journal:
        entries = list(journal.read(journal.first))
        assert [place.position for place in journal.scan(journal.first)] == [entry.position for entry in entries]
        payload = bytes(8)
        journal.append([frames.encode(FrameType.RECORDS, payload), payload])
        end = journal.sync()
    with Journal.open(folder, keys=keys, segment_bytes=4096) as journal:
        again = list(journal.read(journal.first))
        assert journal.end == end
        assert [entry.header for entry in again[:-1]] == [entry.header for entry in entries]
