"""After a crash the images may hold more than the checkpoint says, until redo has come to where the applier was."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, NAME, opened, wait_for
from test_points import Told, shown, synced

from rha.appliance import apply, history
from rha.appliance.replica import Replica

NEVER = 1e6  # seconds


def crashed(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a kill leaves, in `copy`: images that are far ahead of their checkpoint."""
    replica = opened(folder)
    try:
        master = synced(replica, random.Random(3))
        master.churn(random.Random(4), 30)  # clusters that are there are written past the storage daemon
        master.settle()
        wait_for(lambda: replica._images._files._applier.saved.position == replica._journal.durable)
        monkeypatch.setattr(apply, "CHECKPOINT_SECONDS", NEVER)
        monkeypatch.setattr(apply, "IDLE_SECONDS", NEVER)
        master.churn(random.Random(5), 60)
        master.settle()
        shutil.copytree(folder / NAME, copy / NAME, ignore=shutil.ignore_patterns("run"))
    finally:
        replica.close()
    return master


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on: a checkpoint behind each small batch, an interval behind each few."""

    def begin() -> None:
        monkeypatch.setattr(apply, "CHECKPOINT_SECONDS", 0.0)
        monkeypatch.setattr(apply, "AHEAD_BYTES", 1 << 40)
        monkeypatch.setattr(apply, "BATCH_BYTES", 30_000)
        monkeypatch.setattr(history, "INTERVAL_BYTES", 100_000)

    return begin


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appliers are made and do nothing."""
    monkeypatch.setattr(apply.Applier, "start", lambda self: None)


@pytest.mark.parametrize("is_undo_there", [True, False])
def test_no_point_is_wrong_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: Callable[[], None], is_undo_there: bool
) -> None:
    master = crashed(tmp_path / "before", tmp_path / "after", monkeypatch)
    if not is_undo_there:
        shutil.rmtree(tmp_path / "after" / NAME / "undo")
    hasty()
    replica = opened(tmp_path / "after")
    try:
        assert replica.wait_applied(timeout=60)
        again = Told(replica)
        again.said, again.boundaries = master.said, master.boundaries
        again.lsn = master.lsn
        again.churn(random.Random(6), 20)
        again.settle()
        wait_for(lambda: len(replica._images.history.intervals) > 1)
        first = replica._images.history.intervals[0].head.start.lsn
        later = [lsn for lsn in again.boundaries if lsn > first]
        for lsn in [first, *random.Random(8).sample(later, 20)]:
            view = shown(replica, lsn)
            is_right = view.read(0, 0, DISK_BYTES) == again.expected(lsn)
            assert is_right, lsn  # no diff of megabytes
            view.close()
    finally:
        replica.close()


def test_images_that_may_be_ahead_are_not_called_consistent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    crashed(tmp_path / "before", tmp_path / "after", monkeypatch)
    request.getfixturevalue("held")
    replica = opened(tmp_path / "after")
    try:
        assert "applied again" in (replica.why_not_consistent() or "")
        assert replica.point() is None
    finally:
        replica.close()


def test_after_a_good_stop_they_are_what_the_checkpoint_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    replica = opened(tmp_path)
    master = synced(replica, random.Random(3))
    replica.close()
    request.getfixturevalue("held")
    for _ in range(2):  # the second time, with something that is not applied
        replica = opened(tmp_path)
        assert replica.why_not_consistent() is None
        _heard(replica, master)
        replica.close()


def _heard(replica: Replica, master: Told) -> None:
    master.replica = replica
    master.churn(random.Random(7), 5)
    replica.commit()
