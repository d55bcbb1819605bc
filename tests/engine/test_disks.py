"""What a new session may believe: the appliance's word, and what the probe's maps say against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.capture import shared
from rha.capture.capture import Gap
from rha.engine.disks import Disks, Loss
from rha.engine.history import History
from rha.wire.messages import DiskNeed


class Probe:
    """The maps of a probe that watches one disk, as `Capture` shows them."""

    lsn_base = 0

    def __init__(self) -> None:
        self.trusted, self.data_mode, self.bits, self.gap = True, True, 0, False

    def is_trusted(self, disk: int) -> bool:
        return self.trusted

    def is_suspected(self, disk: int) -> bool:
        return False

    def set_trusted(self, disk: int, value: bool) -> None:
        self.trusted = value

    def mode(self, disk: int) -> int:
        return shared.MODE_DATA if self.data_mode else shared.MODE_BITMAP

    def dirty_bytes(self, disk: int) -> int:
        return self.bits

    def gaps(self) -> list[Gap]:
        return [Gap(0, 4096)] if self.gap else []

    def losses(self, disk: int) -> dict[str, int]:
        return {"ring-full": 1} if self.gap else {}

    def new_misses(self) -> dict[str, int]:
        return {}


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def disks(probe: Probe, tmp_path: Path) -> Disks:
    return Disks(["d0"], probe, History(tmp_path / "history"), None)  # type: ignore[arg-type]


NOTHING = [DiskNeed(name="d0", need="nothing")]


def test_clean_maps_and_an_image_that_needs_nothing_are_write_order(disks: Disks, probe: Probe) -> None:
    disks.take_needs(NOTHING)
    assert disks.all_ordered()
    assert disks.look() == []


def test_a_round_that_no_appliance_heard_of_is_a_loss(disks: Disks, probe: Probe) -> None:
    """The ring was full, a round began: data mode again, the gap forgotten. Then the link broke with gap and mark
    still on their way: the appliance knows of neither, only the bits tell."""
    probe.bits = 65536
    disks.take_needs(NOTHING)
    assert not disks.all_ordered()
    assert disks.look() == [Loss(0, "image-unknown", 0)], "the appliance must be told before anything is shipped"


def test_a_round_killed_in_bitmap_mode_is_a_loss(disks: Disks, probe: Probe) -> None:
    probe.data_mode = False
    disks.take_needs(NOTHING)
    assert not disks.all_ordered()
    assert disks.look()


def test_a_standing_gap_keeps_its_place(disks: Disks, probe: Probe) -> None:
    """Records before it are in order still, and go out as such."""
    probe.gap, probe.data_mode, probe.bits = True, False, 65536
    disks.take_needs(NOTHING)
    assert [loss.position for loss in disks.look()] == [4096]


def test_an_appliance_that_knows_is_not_told_again(disks: Disks, probe: Probe) -> None:
    probe.bits = 65536
    disks.take_needs([DiskNeed(name="d0", need="marked")])
    assert not disks.all_ordered()
    assert disks.look() == []
