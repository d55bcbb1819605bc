"""A replica whose journal and undo are encrypted: the same points, nothing in the clear, keys that change or go."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, NAME, opened, wait_for
from stream import WRITE, record
from test_points import Told, quick, shown, synced

from rha.appliance.checkpoint import Checkpoint
from rha.appliance.history import History
from rha.appliance.replica import Replica
from rha.appliance.stream import StreamState
from rha.appliance.window import Limits
from rha.journal.sealing import KeyMissing
from rha.wire.frames import FrameType

__all__ = ["quick"]
MARKER = b"Never to be found! " * 27


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    places = []
    for number in range(2):
        path = tmp_path / f"{number}.key"
        path.write_bytes(bytes([number]) * 32)
        path.chmod(0o600)
        places.append(str(path))
    return places


def marked(master: Told) -> None:
    content = MARKER[:512] * 8
    for _ in range(2):  # what is written first becomes undo
        master.data(FrameType.RECORDS, record(WRITE, 0, 64, len(content), content))
        master.settle()
        content = content[::-1]


def hidden(folder: Path) -> list[Path]:
    """Journal and undo files; asserts that the marker is in none."""
    files = [*(folder / NAME / "journal").glob("*.journal"), *(folder / NAME / "undo").glob("*.undo")]
    needles = (MARKER[:512], MARKER[:512][::-1])
    assert not any(needle in path.read_bytes() for path in files for needle in needles)
    return files


def check_points(replica: Replica, master: Told, draw: random.Random) -> None:
    for lsn in [*draw.sample(master.boundaries, 8), master.lsn]:
        view = shown(replica, lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(lsn), lsn
        view.close()


def churned(master: Told, draw: random.Random) -> None:
    for _ in range(4):
        master.churn(draw, 12)
        master.settle()


@pytest.mark.usefixtures("quick")
def test_points_from_encrypted_files_and_nothing_in_the_clear(tmp_path: Path, keys: list[str]) -> None:
    draw = random.Random(41)
    replica = opened(tmp_path, journal_key=keys[0])
    try:
        master = synced(replica, draw)
        marked(master)
        churned(master, draw)
        assert len(replica._images.history.intervals) > 2
        assert len(hidden(tmp_path)) > 3
        check_points(replica, master, draw)
        replica.rewind(str(master.boundaries[5]), "test")
        assert replica.read_image(0, 0, DISK_BYTES) == master.expected(master.boundaries[5])
    finally:
        replica.close()


@pytest.mark.usefixtures("quick")
def test_key_is_changed_under_the_points(tmp_path: Path, keys: list[str]) -> None:
    draw = random.Random(42)
    replica = opened(tmp_path)
    master = synced(replica, draw)
    churned(master, draw)
    for words in ({"journal_key": keys[0]}, {"journal_key": keys[1], "journal_old_keys": keys[:1]}):
        replica.close()
        replica = master.replica = opened(tmp_path, **words)
        master.greet("a" * 32, 8 if not master.boundaries else master.lsn)
        before = len(replica._images.history.intervals)
        churned(master, draw)
        wait_for(lambda before=before, replica=replica: len(replica._images.history.intervals) > before)
        check_points(replica, master, draw)
    replica.close()
    with pytest.raises(KeyMissing):
        opened(tmp_path, journal_key=keys[1])
    again = opened(tmp_path, journal_old_keys=keys)
    try:
        check_points(again, master, draw)
    finally:
        again.close()


@pytest.mark.usefixtures("quick")
def test_undo_whose_key_is_gone_is_kept(tmp_path: Path, keys: list[str]) -> None:
    draw = random.Random(43)
    replica = opened(tmp_path, journal_key=keys[0])
    master = synced(replica, draw)
    churned(master, draw)
    replica.close()
    kept = sorted((tmp_path / NAME / "undo").iterdir())
    without = History(tmp_path / NAME / "undo", Limits(1, 1, 0), lambda _: StreamState())
    with pytest.raises(KeyMissing):
        without.open([DISK_BYTES], Checkpoint(position=1 << 40))
    assert sorted((tmp_path / NAME / "undo").iterdir()) == kept
    again = opened(tmp_path, journal_old_keys=keys[:1])
    try:
        check_points(again, master, draw)
    finally:
        again.close()
