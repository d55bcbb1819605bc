"""The small files of a scenario's folder, and what the words of a person find in them: each is read, or named as the
one that cannot be."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from rha.appliance import catalog, checkpoint, guard, points
from rha.appliance.points import Bookmark
from rha.appliance.spans import Change
from rha.appliance.stream import state_at
from rha.appliance.unsent import Unsent
from rha.errors import RhaError
from rha.journal.segment import Journal
from rha.switch import progress

NOW = 1.7e9


def run(data: bytes, folder: Path) -> None:
    if not data:
        return
    READERS[data[0] % len(READERS)](data[1:], folder)


def read_checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_bytes(data)
    checkpoint.save(path, checkpoint.load(path))


def read_stream(data: bytes, folder: Path) -> None:
    (folder / "stream.json").write_bytes(data)
    state = catalog.load_stream(folder)
    state.why_not_consistent()
    for disk in state.disks:
        assert (folder / f"{disk.name}.qcow2").resolve().parent == folder.resolve(), disk.name
    catalog.save_stream(folder, state_at(state, 5))


def read_scenario(data: bytes, folder: Path) -> None:
    (folder / "scenario.json").write_bytes(data)
    scenario = catalog.load_scenario(folder)
    if scenario:
        catalog.save_scenario(folder, scenario)
        for name in (scenario.name, *(disk.name for disk in scenario.disk)):
            assert (folder / name).resolve().parent == folder.resolve(), name


def read_bookmarks(data: bytes, folder: Path) -> None:
    """The first line is the file, the rest what a person asks for."""
    content, _, words = data.partition(b"\n")
    path = folder / "bookmarks.json"
    path.write_bytes(content)
    known = catalog.load(path, list[Bookmark]) or []
    text = words.decode(errors="replace")
    with contextlib.suppress(RhaError):
        points.parse(text, known, NOW)
    points.check_name(text, known)
    assert "/" not in text
    catalog.save(path, [*known, Bookmark(name=text, lsn=1, time=NOW, created=NOW)])


def read_changes(data: bytes, folder: Path) -> None:
    (folder / "changes.json").write_bytes(data)
    catalog.load(folder / "changes.json", list[Change])


def read_guard(data: bytes, folder: Path) -> None:
    (folder / "guard.json").write_bytes(data)
    guard.load(folder, [])


def read_unsent(data: bytes, folder: Path) -> None:
    (folder / "unsent.json").write_bytes(data)
    with Journal.open(folder / "journal") as journal:
        left = Unsent(folder)
        left.recall(journal, [1 << 20])
        for offset, length in left.parts(0, 0, 1 << 20):
            assert 0 <= offset < offset + length <= 1 << 20
        left.save(0)


def read_switch(data: bytes, folder: Path) -> None:
    (folder / progress.FILE).write_bytes(data)
    found = progress.load(folder)
    msgspec.json.encode(found)


READERS = (
    read_checkpoint,
    read_stream,
    read_scenario,
    read_bookmarks,
    read_changes,
    read_guard,
    read_unsent,
    read_switch,
)
