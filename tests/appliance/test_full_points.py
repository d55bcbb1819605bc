"""The store's file system, or that of a target, runs full while points are looked at, written to, exported, gone back
to: what cannot be done says why and leaves nothing behind; what was acknowledged stays; with room all goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, wait_for
from stream import WRITE, record
from test_full_store import ROOM, Case, Store, quick, store
from test_point_verbs import Site, site, states

from rha.appliance.intake import Intake
from rha.appliance.pointkeeper import OpenPoint
from rha.appliance.points import Place
from rha.cli.main import run
from rha.errors import StateError, StorageError

__all__ = ["quick", "site", "states", "store"]
pytestmark = pytest.mark.root
Output = pytest.CaptureFixture[str]


@pytest.fixture
def case(store: Store) -> Iterator[Case]:
    """A disk with points: `before` is the content at `lsn`, and much of it was written over since."""
    with Case(store) as case:
        case.lsn, case.before = with_points(case)
        yield case


def with_points(case: Case) -> tuple[int, bytes]:
    """An LSN and the content there; much of it is written over then."""
    case.synced()
    wait_for(lambda: bool(case.replica._images.history.intervals))
    lsn, before = case.replica.applied_lsn, bytes(case.master.content)
    case.master.write(case.draw, 150)
    assert case.replica.wait_applied(timeout=30)
    return lsn, before


def read(point: OpenPoint) -> bytes:
    return bytes(point.view.read(0, 0, DISK_BYTES))


def written(point: OpenPoint, megabytes: int) -> subprocess.CompletedProcess[str]:
    """As a guest would."""
    words = ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {megabytes}M", "-c", "flush"]
    return subprocess.run([*words, str(point.overlays()[0].path)], capture_output=True, text=True, check=False)


def say_at_once(case: Case, count: int) -> None:
    """One frame of `count` writes of 16 KiB, durable: its journal has room, and then its undo wants as much."""
    master, run = case.master, b""
    for _ in range(count):
        offset, data = 16384 * case.draw.randrange(DISK_BYTES // 16384), case.draw.randbytes(16384)
        master.content[offset : offset + 16384] = data
        run += record(WRITE, 0, offset // 512, 16384, data)
    master.described(run)


@pytest.mark.parametrize("room", ROOM)
def test_opening(case: Case, room: int) -> None:
    case.store.leave(room)
    refused: list[StorageError] = []
    try:
        point = case.replica.points.open(str(case.lsn))
        assert read(point) == case.before
        case.replica.points.close(point.name)
    except StorageError as error:
        refused.append(error)
    assert all("No space left" in error.cause and "df -h" in error.hint for error in refused), refused
    assert bool(refused) == (room < 700_000)  # an overlay begins with some 200 KB
    assert case.replica.points.list().open == []
    assert [*(case.replica.folder / "points").glob("*")] == []
    case.store.free()
    point = case.replica.points.open(str(case.lsn))
    assert read(point) == case.before
    case.replica.points.close(point.name)
    case.check()


def test_an_overlay_that_takes_no_more(case: Case) -> None:
    """What looks at the point is told; replica and point stay, and the overlay goes on when there is room."""
    point = case.replica.points.open(str(case.lsn))
    case.store.leave(300_000)
    told = written(point, 4)
    assert "No space left" in told.stdout + told.stderr
    assert case.replica.failure() is None
    assert read(point) == case.before
    case.store.free()
    assert not written(point, 4).returncode
    assert read(point) == case.before
    case.replica.points.close(point.name)
    case.check()


def test_a_point_is_lost_before_anything_that_was_acknowledged(case: Case) -> None:
    """When all undo must go for the disk's sake; its space comes back while the point still is open."""
    point = case.replica.points.open(str(case.lsn))
    say_at_once(case, 512)  # the image has all its clusters
    assert case.replica.wait_applied(timeout=30)
    case.store.leave(1_500_000)
    say_at_once(case, 64)
    acknowledged = case.master.acknowledged
    assert case.replica.wait_applied(timeout=30)
    assert "full" in point.view.why_lost
    (listed,) = case.replica.points.list().open
    assert listed.why_lost == point.view.why_lost
    assert any(f"open point {point.name} cannot be read" in alarm for alarm in case.replica.report().alarms)
    with pytest.raises(StateError, match="the point is lost"):
        read(point)
    assert not removed_and_held(case)
    case.replica.points.close(point.name)
    case.store.free()
    case.check()
    assert case.replica.durable_lsn >= acknowledged


def removed_and_held(case: Case) -> list[str]:
    """Files of the scenario that have no name any more, and take space still."""
    fds = Path("/proc/self/fd")
    targets = [os.readlink(fds / fd) for fd in os.listdir(fds) if os.path.lexists(fds / fd)]
    return [one for one in targets if one.startswith(str(case.replica.folder)) and one.endswith("(deleted)")]


def test_an_open_point_that_holds_what_has_left_the_window(store: Store) -> None:
    """It stays readable, its space is named, and comes back with its end."""
    with Case(store, reserve=8 << 20) as case:
        lsn, before = with_points(case)
        point = case.replica.points.open(str(lsn))
        store.leave(7 << 20)
        case.master.write(case.draw, 100)
        assert case.replica.wait_applied(timeout=30)
        wait_for(lambda: bool(removed_and_held(case)))
        (alarm,) = [alarm for alarm in case.replica.report().alarms if "open point" in alarm]
        assert "left the window" in alarm
        assert read(point) == before
        case.replica.points.close(point.name)
        assert not removed_and_held(case)
        store.free()
        case.check()


def test_a_rewind_without_room_is_refused(case: Case) -> None:
    case.store.leave(300_000)
    intervals = len(case.replica._images.history.intervals)
    with pytest.raises(StorageError, match="no room for a rewind") as refused:
        case.replica.rewind(str(case.lsn), "test")
    assert "df -h" in refused.value.hint
    assert case.replica.why_not_consistent() is None
    assert len(case.replica._images.history.intervals) == intervals
    assert case.replica.read_image(0, 0, DISK_BYTES) == case.master.content
    case.store.free()
    case.check()


def test_a_rewind_goes_on_when_there_is_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else takes the room between the look at it and the act."""
    journalled = Intake.rewind

    def rewind(intake: Intake, place: Place, by: str) -> None:
        case.store.leave(100_000)
        journalled(intake, place, by)

    monkeypatch.setattr(Intake, "rewind", rewind)
    with pytest.raises(StorageError) as failed:
        case.replica.rewind(str(case.lsn), "test")
    assert "No space left" in str(failed.value)
    assert "taken back" in (case.replica.why_not_consistent() or "")
    assert any("No space left" in alarm for alarm in case.replica.report().alarms)
    case.store.free()

    def is_back() -> bool:
        case.replica.tend()
        return case.replica.why_not_consistent() is None and not case.replica.failure()

    wait_for(is_back, 60)
    assert case.replica.read_image(0, 0, DISK_BYTES) == case.before


def test_a_bookmark(case: Case) -> None:
    case.store.leave(0)
    with pytest.raises(StorageError, match=r"bookmarks\.json cannot be written") as refused:
        case.replica.points.bookmark("here", "now", "test")
    assert "No space left" in refused.value.cause
    assert "df -h" in refused.value.hint
    assert case.replica.points.list().bookmarks == []
    case.store.free()
    case.replica.points.bookmark("here", "now", "test")
    assert [mark.name for mark in case.replica.points.list().bookmarks] == ["here"]
    case.check()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for less than what is wanted from it: 12 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where], check=True)
    (where / "ballast").write_bytes(bytes(52 << 10))
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("form", ["qcow2", "raw", "vhdx", "vpc"])
def test_exporting_to_a_full_disk(site: Site, small: Path, capsys: Output, form: str) -> None:
    assert run(["export", "web1", str(small / "disk"), "--at", str(site.before), "--format", form]) == 7
    told = capsys.readouterr().err
    assert "was not written" in told
    assert "o space left" in told
    assert "df -h" in told
    assert [one.name for one in small.iterdir()] == ["ballast"]
    assert site.replica.points.list().open == []


def test_restoring_to_a_full_disk(site: Site, small: Path, capsys: Output) -> None:
    """One of its two files fits, and would look like all that there was."""
    (small / "ballast").write_bytes(bytes(60 << 10))
    assert run(["restore", "web1", "/", str(small / "x"), "--at", str(site.before)]) == 7
    told = capsys.readouterr().err
    assert "o space left" in told
    assert "df -h" in told
    assert [one.name for one in small.iterdir()] == ["ballast"]
    assert site.replica.points.list().open == []
