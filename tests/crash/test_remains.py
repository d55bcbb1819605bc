"""What a kill leaves is judged: nothing is found where nothing is wrong, and each kind of wrong is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proof import undo
from proof.remains import Chronicle, Look, Remains, digest
from rha.appliance import history
from rha.wire.frames import FrameType

sys.path.insert(0, str(Path(__file__).parents[1] / "appliance"))
from one_replica import DISK_BYTES, NAME, Master, opened, wait_for
from points_child import base, stream

pytestmark = pytest.mark.root
COUNT, SEED = 42, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A scenario's folder with several intervals of undo and one bookmark; the end of its stream."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "INTERVAL_BYTES", 300_000)
        replica = opened(place, reserve=0)
        master = Master(replica)
        master.greet("5" * 32, 8)
        master.sync(base(SEED))
        wait_for(replica.points.window)
        for number, raw in enumerate(stream(SEED, COUNT)):
            master.data(FrameType.RECORDS, raw[72:])
            if number % 5 == 4:
                settle(master)
        settle(master)  # of the last two frames, which do not make an interval
        replica.points.bookmark("all", "now", "")
        replica.close()
    return place / NAME, master.lsn


def settle(master: Master) -> None:
    """All that was sent is in the images, and the checkpoint says so."""
    master.settle()
    checkpoint = master.replica.folder / "checkpoint.json"
    wait_for(lambda: json.loads(checkpoint.read_text())["lsn"] == master.lsn)


class Case:
    """A copy of what was made, to be spoilt."""

    def __init__(self, made: Path, place: Path) -> None:
        self.folder, self._place = place / NAME, place
        shutil.copytree(made, self.folder, ignore=shutil.ignore_patterns("run"))
        files, sizes = [place / "straight.raw"], (DISK_BYTES,)
        self.chronicle = Chronicle(self.folder / "journal", files, sizes, SEED)

    def faults(self, acknowledged: int, bookmarks: dict[str, int] | None = None) -> list[str]:
        work = self._place / "work"
        work.mkdir()
        remains = Remains(self.folder, ["d0"], self.chronicle, work)
        found = list(remains.faults(acknowledged, bookmarks or {}, 1000))
        self.undone = remains.undone
        return found + self.chronicle.faults

    def window(self) -> list[undo.Interval]:
        return undo.intervals(self.folder / "undo")

    def checkpoint(self) -> dict[str, int]:
        return dict(json.loads((self.folder / "checkpoint.json").read_text()))


@pytest.fixture
def case(made: tuple[Path, int], tmp_path: Path) -> Case:
    return Case(made[0], tmp_path)


@pytest.fixture
def end(made: tuple[Path, int]) -> int:
    return made[1]


def test_what_was_stopped_well_has_no_fault(case: Case, end: int) -> None:
    marks = {mark["name"]: mark["lsn"] for mark in json.loads((case.folder / "bookmarks.json").read_text())}
    assert case.faults(end, marks) == []
    assert case.undone == len(case.window()) > 3


def test_more_was_acknowledged_than_is_there(case: Case, end: int) -> None:
    assert case.faults(end + 1) == [f"the journal ends at LSN {end}, {end + 1} was acknowledged"]


def test_a_bookmark_that_is_not_there(case: Case, end: int) -> None:
    (why,) = case.faults(end, {"other": 1})
    assert "other" in why


def test_a_wrong_byte_in_the_image(case: Case, end: int) -> None:
    image = case.folder / "images/d0.qcow2"
    subprocess.run(["qemu-io", "-c", "write -P 99 4194304 512", image], check=True, capture_output=True)
    assert any("are not the journal's replay" in why for why in case.faults(end))


def test_a_checkpoint_that_is_ahead_of_its_images(case: Case, end: int) -> None:
    """The images of some intervals ago, with the checkpoint of now: what a lost flush of the images leaves."""
    window, ends = case.window(), case.checkpoint()["position"]
    case.chronicle.past([interval.start for interval in window])
    case.chronicle.to(ends)
    raw = [bytearray(image) for image in case.chronicle.images]
    undo.put_over(window[-1], raw)
    older = case.folder / "older.raw"
    older.write_bytes(raw[0])
    image = case.folder / "images/d0.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", older, image], check=True)
    assert any("are not the journal's replay" in why for why in case.faults(end))


def test_undo_that_was_not_kept(case: Case, end: int) -> None:
    """The last block is gone as if it had never been written, and the durable mark does not miss it."""
    window = case.window()
    victim = window[-2]
    whole = victim.path.read_bytes()
    starts = [frame.position for frame in undo.journal.segment(victim.path, 0) if frame.type == undo.TABLE]
    victim.path.write_bytes(whole[: starts[-1]])
    assert any("give no state of position" in why for why in case.faults(end))


def test_undo_that_is_torn_below_its_mark(case: Case, end: int) -> None:
    last = case.window()[-1]
    last.path.write_bytes(last.path.read_bytes()[: last.end - 8])
    assert any("was durable" in why for why in case.faults(end))


def test_a_torn_end_above_the_marks_is_a_crashs(case: Case, end: int) -> None:
    last, segment = case.window()[-1].path, sorted((case.folder / "journal").glob("*.journal"))[-1]
    for path in (last, segment):
        path.write_bytes(path.read_bytes() + b"RHA1 and no more of it")
    assert case.faults(end) == []


def test_a_journal_that_is_torn_below_its_mark(case: Case, end: int) -> None:
    segment = sorted((case.folder / "journal").glob("*.journal"))[-1]
    segment.write_bytes(segment.read_bytes()[:-8])
    assert len(case.faults(0)) == 1


def test_a_disk_that_held_something_else(case: Case, end: int) -> None:
    case.chronicle.expect(Look(end, digest([bytes(DISK_BYTES)])))
    (why,) = case.faults(end)
    assert f"is not the disk as it was at {end}" in why
    assert case.chronicle.unmet == 0


def test_a_durable_mark_that_a_power_cut_has_emptied(case: Case, end: int) -> None:
    (case.folder / "undo/durable").write_bytes(b"")
    (why,) = case.faults(end)
    assert "has 0 bytes" in why
