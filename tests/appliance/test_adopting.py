"""What a substitute wrote becomes the replica's: equal by qemu-img, older points as they were, after a crash too."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, NAME, opened
from test_points import quick, replica, shown, synced

from rha.appliance import adopting
from rha.appliance.adopting import adopt
from rha.appliance.config import Config
from rha.appliance.replica import Replica
from rha.errors import StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec
from rha.wire.frames import BadFrame, FrameType
from rha.wire.messages import Return

__all__ = ["quick", "replica"]


class Substitute:
    """An overlay as a failover makes it, written to by qemu-io as a guest would: data, zeros, discards."""

    def __init__(self, below: ImageSpec, draw: random.Random, folder: Path) -> None:
        self.spec = ImageSpec(below.name, folder / "overlay.qcow2", "qcow2")
        formats.overlay(self.spec.path, below.path, below.format)
        words = []
        for _ in range(60):
            length = 512 * draw.choice([1, 8, 8, 64, 200])
            offset = 512 * draw.randrange((DISK_BYTES - length) // 512)
            pattern = f"write -P {draw.randrange(1, 255)}"
            act = draw.choice([pattern, pattern, "write -z", "discard"])
            words += ["-c", f"{act} {offset} {length}"]
        subprocess.run(["qemu-io", "-f", "qcow2", *words, str(self.spec.path)], check=True, capture_output=True)
        self.content = flattened(self.spec.path)


def flattened(image: Path) -> bytes:
    raw = image.with_suffix(".flat")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
    content = raw.read_bytes()
    raw.unlink()
    return content


def given_up(replica: Replica, place: object = None) -> ImageSpec:
    replica.retire()
    assert replica.apply_spool(60)
    return replica.give_up_images(place)[0]


@pytest.fixture
def draw() -> random.Random:
    return random.Random(31)


def test_the_images_are_what_the_substitute_left(replica, draw, tmp_path) -> None:
    master = synced(replica, draw)
    master.churn(draw, 30)
    before = master.lsn
    substitute = Substitute(given_up(replica), draw, tmp_path)
    moment = time.time()
    taken = adopt(replica, [[substitute.spec]], tmp_path / "run", moment, "somebody")
    assert 0 < taken < DISK_BYTES
    assert replica.read_image(0, 0, DISK_BYTES) == substitute.content
    assert (replica.why_not_consistent(), replica.point().time) == (None, moment)
    assert "what the substitute left" in replica.report().why
    replica.restore_images()
    for lsn in (before, *draw.sample(master.boundaries, 5)):
        view = shown(replica, lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(lsn)
        view.close()


def test_what_the_master_wrote_after_it_had_handed_over_is_left_out(replica, draw, tmp_path) -> None:
    """It was received and is not below what the substitute has; what was before it stays as it was."""
    master = synced(replica, draw)
    master.churn(draw, 30)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    handed_over, known = replica.point().lsn, len(master.boundaries)
    master.churn(draw, 30)
    late = master.boundaries[known:]
    assert "were left out" not in str(replica._images.changes)
    adopt(replica, [[substitute.spec]], tmp_path / "run", 5.0, "somebody")
    assert replica.read_image(0, 0, DISK_BYTES) == substitute.content
    assert (replica.why_not_consistent(), replica.point().time) == (None, 5.0)
    assert "of stream, which the master wrote after it had handed over, were left out" in str(replica._images.changes)
    replica.restore_images()
    for lsn in (handed_over, *draw.sample(master.boundaries[:known], 5)):
        view = shown(replica, lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(lsn)
        view.close()
    assert replica.points.find(str(late[len(late) // 2])).lsn == handed_over
    view = shown(replica, replica.point().lsn)
    assert view.read(0, 0, DISK_BYTES) == substitute.content
    view.close()


def test_a_time_before_its_end_is_not_shown_by_it(replica, draw, tmp_path) -> None:
    master = synced(replica, draw)
    master.churn(draw, 5)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    earlier = replica.point().lsn
    begun = time.time()
    while time.time() < begun + 0.01:
        pass
    adopt(replica, [[substitute.spec]], tmp_path / "run", time.time(), "somebody")
    found = replica.points.find(f"{time.strftime('%FT%T', time.localtime(begun))}")
    assert found.lsn <= earlier
    assert replica.points.find("now").lsn == replica.point().lsn > earlier


def test_the_master_is_compared_and_the_point_stays_bootable(replica, draw, tmp_path) -> None:
    master = synced(replica, draw)
    master.churn(draw, 5)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    adopt(replica, [[substitute.spec]], tmp_path / "run", time.time(), "somebody")
    replica.restore_images()
    point = replica.point()
    welcome = master.greet("a" * 32, 8)  # the probe may have outlived all this: its stream cannot go on
    assert not welcome.generation_known
    welcome = master.greet("b" * 32, welcome.lsn_floor + 1024)
    assert [disk.need for disk in welcome.disks] == ["compare"]
    assert replica.point() == point
    assert replica.read_image(0, 0, DISK_BYTES) == substitute.content


@pytest.mark.parametrize("pieces", [0, 3, 20])
def test_killed_in_the_middle_it_is_done_again(tmp_path, monkeypatch, replica, draw, pieces) -> None:
    """The master's last point can be booted until it is done."""
    master = synced(replica, draw)
    master.churn(draw, 30)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    point = replica.point()
    take, count = adopting._take, [0]

    def until(*words: object) -> None:
        count[0] += 1
        if count[0] > pieces:
            raise StorageError("killed")
        take(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(adopting, "_take", until)
    with pytest.raises(StorageError, match="killed"):
        adopt(replica, [[substitute.spec]], tmp_path / "run", 1.0, "somebody")
    replica.commit()
    assert replica.wait_applied(timeout=30)
    assert replica.why_not_consistent()
    assert replica.point() == point
    replica.close()
    monkeypatch.setattr(adopting, "_take", take)
    again = Replica(tmp_path / NAME, Config(store=str(tmp_path), ca="/x", certificate="/x", key="/x"), retired=True)
    try:
        adopt(again, [[substitute.spec]], tmp_path / "run", 2.0, "somebody")
        assert again.read_image(0, 0, DISK_BYTES) == substitute.content
        assert again.point().time == 2.0
        view = shown(again, master.lsn)
        assert view.read(0, 0, DISK_BYTES) == master.expected(master.lsn)
        view.close()
    finally:
        again.close()


def test_a_substitute_that_began_at_an_earlier_point(replica, draw, tmp_path) -> None:
    master = synced(replica, draw)
    master.churn(draw, 40)
    master.settle()
    wanted = draw.choice(master.boundaries[:100])
    point = given_up(replica, replica.points.find(str(wanted)))
    assert flattened(point.path) == master.expected(wanted)
    substitute = Substitute(point, draw, tmp_path)
    adopt(replica, [[point], [substitute.spec]], tmp_path / "run", time.time(), "somebody")
    assert replica.read_image(0, 0, DISK_BYTES) == substitute.content
    replica.restore_images()
    assert not point.path.exists()


def test_adopted_twice_it_is_the_same(replica, draw, tmp_path) -> None:
    """The appliance may die between the end and the note of it."""
    master = synced(replica, draw)
    master.churn(draw, 10)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    for moment in (1.0, 2.0):
        adopt(replica, [[substitute.spec]], tmp_path / "run", moment, "somebody")
        assert replica.read_image(0, 0, DISK_BYTES) == substitute.content
    assert replica.point().time == 2.0


def test_the_master_cannot_say_so(replica, draw) -> None:
    master = synced(replica, draw)
    with pytest.raises(BadFrame, match="out of turn"):
        master.control(FrameType.RETURN, Return(time=1.0))


def test_a_new_replica_of_the_same_folder_knows_it(tmp_path, replica, draw) -> None:
    master = synced(replica, draw)
    master.churn(draw, 10)
    substitute = Substitute(given_up(replica), draw, tmp_path)
    adopt(replica, [[substitute.spec]], tmp_path / "run", 3.0, "somebody")
    replica.restore_images()
    replica.close()
    again = opened(tmp_path)
    try:
        assert again.wait_applied(timeout=30)
        assert again.read_image(0, 0, DISK_BYTES) == substitute.content
        assert again.point().time == 3.0
    finally:
        again.close()
