"""Taking the images back: to any point, undone again, after a crash, and what the master is told."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, opened
from test_points import quick, replica, shown, synced

from rha.appliance import pointview, rewinding
from rha.errors import StateError, StorageError

__all__ = ["quick", "replica"]


def test_there_and_back_again(replica) -> None:
    draw = random.Random(21)
    master = synced(replica, draw)
    master.churn(draw, 40)
    master.settle()
    wanted, before = draw.choice(master.boundaries[:200]), master.lsn
    place = replica.rewind(str(wanted), "somebody")
    assert place.lsn == wanted
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(wanted)
    assert replica.why_not_consistent() is None
    assert replica.point().lsn == before + 8
    assert replica.point().time == place.time
    assert f"taken back to LSN {wanted}" in replica.report().why
    view = shown(replica, wanted)  # older points stay
    assert view.read(0, 0, DISK_BYTES) == master.expected(wanted)
    view.close()
    replica.rewind(str(before), "somebody")
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(before)


def test_the_master_is_compared_afterwards(replica) -> None:
    draw = random.Random(22)
    master = synced(replica, draw)
    master.churn(draw, 5)
    master.settle()
    replica.rewind("8", "somebody")
    welcome = master.greet("a" * 32, 8)  # its old stream cannot go on
    assert not welcome.generation_known
    welcome = master.greet("b" * 32, welcome.lsn_floor + 1024)
    assert [disk.need for disk in welcome.disks] == ["compare"]
    assert replica.point().lsn < master.lsn  # guarded


def test_killed_in_the_middle_it_is_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replica
) -> None:
    draw = random.Random(23)
    master = synced(replica, draw)
    master.churn(draw, 40)
    master.settle()
    wanted = draw.choice(master.boundaries[:100])
    monkeypatch.setattr(rewinding, "GROUP_BYTES", 4096)
    pieces = []
    gather = pointview.PointView.gather

    def fail_later(self, *words):
        pieces.append(words)
        if len(pieces) > 10:
            raise StateError("killed")
        return gather(self, *words)

    monkeypatch.setattr(pointview.PointView, "gather", fail_later)
    with pytest.raises(StateError, match="killed"):
        replica.rewind(str(wanted), "somebody")
    assert "taken back" in replica.why_not_consistent()
    with pytest.raises(StateError):
        replica.close()
    monkeypatch.setattr(pointview.PointView, "gather", gather)
    again = opened(tmp_path)
    try:
        assert again.wait_applied(timeout=30)
        assert again.why_not_consistent() is None
        assert again.read_image(0, 0, DISK_BYTES) == master.expected(wanted)
        view = shown(again, master.lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(master.lsn)
        view.close()
    finally:
        again.close()


def test_refused_when_a_part_of_it_is_damaged(replica) -> None:
    """Before anything is written, or the images could go neither back nor on."""
    draw = random.Random(25)
    master = synced(replica, draw)
    wanted = master.lsn
    master.churn(draw, 40)
    master.settle()
    oldest = replica._images.history.intervals[0].path
    with oldest.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(StorageError, match="damaged"):
        replica.rewind(str(wanted), "somebody")
    assert replica.why_not_consistent() is None
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(master.lsn)
    later = replica._images.history.intervals[1].head.start.lsn
    replica.rewind(str(later), "somebody")
    assert replica.read_image(0, 0, DISK_BYTES) == master.expected(later)


def test_refused_while_the_master_is_connected(replica) -> None:
    synced(replica, random.Random(24))
    replica.is_connected = True
    with pytest.raises(StateError, match="is connected"):
        replica.rewind("now", "somebody")
