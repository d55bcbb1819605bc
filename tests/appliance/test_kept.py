"""What a discarded substitute wrote, on a real replica: kept over its point while the images move on, by QEMU's own
tools' word."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from one_replica import DISK_BYTES, NAME, opened
from test_points import quick, replica, synced
from test_warden import Site, raw

from rha.appliance import discarding
from rha.appliance.kept import FILE
from rha.appliance.keptview import Pieces
from rha.appliance.replica import Replica
from rha.appliance.split_verbs import SplitVerbs
from rha.appliance.window import Limits
from rha.errors import StateError, StorageError
from rha.image.convert import convert
from rha.scenario import Vm
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.failover import are_images_taken

__all__ = ["quick", "replica"]
CLUSTER = 64 << 10


class Parting(Site):
    """A master and its substitute, which write to the same disk in turns."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.draw = random.Random(41)
        self.master = synced(replica, self.draw)
        self.master.churn(self.draw, 30)
        self.master.settle()
        vm = Vm(firmware="bios", bus="virtio", accelerator="tcg")
        replica._intake.scenario = msgspec.structs.replace(replica.scenario, vm=vm)

    @property
    def overlay(self) -> Path:
        return self.replica.folder / "substitute" / "d0.qcow2"

    def fail_over(self) -> float:
        """Returns what names the switch."""
        self.verbs.failover(NAME, person="eve", reason="silent")
        past = ledger.load(self.replica.folder)
        assert past is not None
        return past.trigger.decided

    def write(self, offset: int, length: int, byte: int) -> None:
        """As the guest would."""
        words = ["qemu-io", "-f", "qcow2", "-c", f"write -P {byte} {offset} {length}", str(self.overlay)]
        subprocess.run(words, check=True, capture_output=True)

    def go_on(self, count: int) -> None:
        """The master writes, and the images move on, over many intervals."""
        for _ in range(count):
            self.master.churn(self.draw, 12)
            self.master.settle()

    def exported(self, at: str, folder: Path) -> bytes:
        """As `rha export` does."""
        point = self.replica.points.open(at)
        target = folder / f"exported-{at}.raw"
        try:
            convert(Path(point.describe().socket), "d0", target, "raw")
        finally:
            self.replica.points.close(point.name)
        return target.read_bytes()


@pytest.fixture
def site(replica: Replica) -> Iterator[Parting]:
    site = Parting(replica)
    yield site
    site.warden.stop()


def test_it_can_be_read_after_the_images_have_moved_on_and_the_window_is_over(site: Parting, tmp_path: Path) -> None:
    site.fail_over()
    for offset, length, byte in ((0, 512, 0xA1), (CLUSTER - 512, 1024, 0xA2), (DISK_BYTES - 4096, 4096, 0xA3)):
        site.write(offset, length, byte)
    left = raw(site.overlay, tmp_path)
    said = site.verbs.discard(NAME, person="eve")["sentence"]
    (one,) = site.replica.points.kept.listed()
    assert f"is kept as {one.name}: rha kept {NAME}" in said
    assert not site.overlay.parent.exists()
    site.replica._images.history.limits = Limits(0.0, 1, 0)  # nothing may stay
    site.go_on(8)
    assert len(site.replica._images.history.intervals) > 3, "the point below is held"
    assert site.exported(one.name, tmp_path) == left
    assert site.replica.read_image(0, 0, DISK_BYTES) == site.master.expected(site.master.lsn)
    assert any("more points than window_bytes" in alarm for alarm in site.replica.report().alarms)
    (kept,) = site.replica.report().kept
    assert (kept.name, kept.bytes) == (one.name, one.bytes)
    assert kept.held_bytes > 0


def test_every_range_is_read_from_where_it_lies(site: Parting, tmp_path: Path) -> None:
    site.fail_over()
    for cluster in range(0, DISK_BYTES // CLUSTER, 3):
        site.write(cluster * CLUSTER + 512, 1024, cluster % 200 + 1)
    left = raw(site.overlay, tmp_path)
    site.verbs.discard(NAME)
    site.go_on(2)
    (one,) = site.replica.points.kept.sets
    point = site.replica.points.open(one.name)
    for _ in range(200):
        offset = 512 * site.draw.randrange(DISK_BYTES // 512)
        length = 512 * site.draw.randrange(1, min(1024, (DISK_BYTES - offset) // 512) + 1)
        assert point.view.read(0, offset, length) == left[offset : offset + length], (offset, length)
        at = offset
        for count, is_zero in point.view.status(0, offset, length):
            assert not is_zero or not any(left[at : at + count])
            at += count
        assert at == offset + length
    site.replica.points.close(point.name)


@pytest.mark.root
def test_its_file_systems_are_mounted_like_a_point_s(site: Parting, tmp_path: Path) -> None:
    site.fail_over()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/orders").write_text("taken by the substitute")
    system = tmp_path / "system.raw"
    words = ["mkfs.ext4", "-q", "-d", str(tmp_path / "tree"), str(system), f"{DISK_BYTES >> 10}k"]
    subprocess.run(words, check=True)
    subprocess.run(["qemu-img", "convert", "-n", "-O", "qcow2", str(system), str(site.overlay)], check=True)
    site.verbs.discard(NAME)
    site.go_on(2)
    (one,) = site.replica.points.kept.sets
    where = tmp_path / "mnt"
    where.mkdir()
    point = site.replica.points.open(one.name)
    point.mount(where)
    try:
        assert (where / "orders").read_text() == "taken by the substitute"
        assert point.describe().kept == one.name
    finally:
        site.replica.points.close(point.name)


def test_pieces_are_cut_and_joined() -> None:
    pieces = Pieces([(10, 5), (15, 5), (30, 10)])
    assert pieces.within(0, 10) == []
    assert pieces.within(12, 4) == [(12, 4)]
    assert pieces.within(0, 100) == [(10, 10), (30, 10)]
    assert pieces.within(19, 12) == [(19, 1), (30, 1)]
    assert Pieces([]).within(0, 10) == []


def test_dropping_lets_go_of_the_point(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    site.verbs.discard(NAME)
    (one,) = site.replica.points.kept.sets
    verbs = SplitVerbs(lambda _: site.warden)
    point = site.replica.points.open(one.name)
    with pytest.raises(StateError, match="is open"):
        verbs.drop_kept(NAME, one.name)
    site.replica.points.close(point.name)
    assert "is removed" in verbs.drop_kept(NAME, one.name, person="bob")["sentence"]
    with pytest.raises(StateError, match="nothing is kept as"):
        verbs.drop_kept(NAME, one.name)
    assert (verbs.kept(NAME), list((site.replica.folder / "kept").iterdir())) == ([], [])
    site.replica._images.history.limits = Limits(0.0, 1, 0)
    site.go_on(6)
    assert len(site.replica._images.history.intervals) < 3
    assert [one.kind for one in switches.read(site.replica.folder)] == ["failover", "discard", "drop-kept"]


def test_a_name_means_one_thing(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    site.verbs.discard(NAME)
    (one,) = site.replica.points.kept.sets
    with pytest.raises(StateError, match="is taken"):
        site.replica.points.bookmark(one.name, "now", "eve")
    again = site.overlay.parent
    again.mkdir()
    with pytest.raises(StateError, match="is taken"):
        site.replica.points.kept.take(again, one)
    assert list(again.iterdir()) == []
    for act in (site.replica.points.find, lambda name: site.verbs.failover(NAME, at=name)):
        with pytest.raises(StateError, match="is no point of the master's"):
            act(one.name)


def test_nothing_written_is_nothing_kept(site: Parting) -> None:
    site.fail_over()
    assert "it had written nothing" in site.verbs.discard(NAME)["sentence"]
    assert site.replica.points.kept.sets == []


def test_what_a_person_gives_up_is_removed(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    assert "what it wrote is removed" in site.verbs.discard(NAME, keep=False)["sentence"]
    assert site.replica.points.kept.sets == []
    assert not site.overlay.parent.exists()


def test_without_a_point_or_room_it_is_refused_and_the_substitute_stays(
    site: Parting, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = site.fail_over()
    site.write(0, 4096, 1)
    with monkeypatch.context() as full:
        full.setattr(discarding, "free_bytes", lambda _: 0)
        with pytest.raises(StorageError, match="cannot be kept") as refused:
            site.verbs.discard(NAME)
        assert f"rha discard {NAME} --no-keep" in refused.value.hint
    past = ledger.load(site.replica.folder)
    assert past is not None
    ledger.store(site.replica.folder, msgspec.structs.replace(past, point=None))  # as one that was forced
    with pytest.raises(StateError, match="cannot be kept") as unknown:
        site.verbs.discard(NAME)
    assert f"qemu-img convert -U -O qcow2 {site.overlay} FILE" in unknown.value.hint
    assert site.vm.state(f"rha-{NAME}") == "running"
    assert site.replica.points.kept.of(decided) is None


MOMENTS = (
    "pathlib.Path.rename",
    "rha.appliance.kept.sync_folder",
    "rha.switch.failover.remove_overlays",
    "rha.switch.failover.redirect.revert",
)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_it_goes_on_by_itself(
    site: Parting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    decided = site.fail_over()
    site.write(CLUSTER, 4096, 7)
    left = raw(site.overlay, tmp_path)

    def cut(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(moment, cut)
        with pytest.raises(Killed):
            site.verbs.discard(NAME, person="eve")
    folder = site.replica.folder
    site.warden.stop()
    site.replica.close()
    replica = opened(folder.parent, retired=are_images_taken(folder))  # as an appliance that was started anew
    again = Site(replica)
    try:
        if moment == MOMENTS[0]:
            assert raw(site.overlay, tmp_path) == left, "they lie where the substitute left them"
        assert again.warden._go_on_with_switch()
        assert ledger.load(folder) is None
        (one,) = replica.points.kept.sets
        assert (one.decided, one.by) == (decided, "eve")
        assert again.kinds == [("failover", "eve"), ("discard", "eve")]
        point = replica.points.open(one.name)
        assert point.view.read(0, 0, DISK_BYTES) == left
        replica.points.close(point.name)
    finally:
        again.warden.stop()
        replica.close()


def test_a_set_whose_file_is_damaged_is_named(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    site.verbs.discard(NAME)
    (one,) = site.replica.points.kept.sets
    (site.replica.folder / "kept" / one.name / FILE).write_bytes(b"{")
    site.replica.close()
    again = opened(site.replica.folder.parent)
    try:
        assert any(one.name in alarm and "cannot be read" in alarm for alarm in again.report().alarms)
    finally:
        again.close()


def test_what_lost_its_point_says_so(site: Parting) -> None:
    site.fail_over()
    site.write(0, 4096, 1)
    site.verbs.discard(NAME)
    site.replica._images.history.forget("somebody changed the images")
    (one,) = site.replica.points.kept.listed()
    assert one.why_lost
    assert any("lost with its undo" in alarm for alarm in site.replica.report().alarms)
    assert (site.replica.folder / "kept" / one.name / "d0.qcow2").exists()
