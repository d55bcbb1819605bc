"""A switchover that moves an address: master, appliance and a client in network namespaces of one segment."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rha.errors import NetworkError
from rha.image import formats
from rha.redirect import run
from rha.redirect.base import master_place
from rha.scenario import MoveIp
from rha.switch import planned
from rha.switch.planned import run_switchover
from rha.switch.progress import SERVING, Progress, Trigger
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.redirect.wires import Host, Segment, eventually
from tests.switch.planned_site import PlannedSite

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")]
ADDRESS = "192.0.2.10"


class Wired(PlannedSite):
    """Its master does with its address what the engine does (rha/engine/release.py)."""

    def __init__(self, store: Path, images: list[Path], master: Host) -> None:
        super().__init__(store, images)
        self.master, self.place = master, master_place("web", store / "master")
        table = MoveIp(addresses=[f"{ADDRESS}/24"], interface="eth0")
        self.scenario = msgspec.structs.replace(self.scenario, redirect=[table])

    def hand_over(self, limit: float) -> None:
        super().hand_over(limit)
        self.master.call(lambda: run.apply(self.scenario.redirect, self.place))

    def _do(self, verb: str) -> Any:
        if verb == "resume":
            self.master.call(lambda: run.revert(self.place))
        return super()._do(verb)


class World:
    def __init__(self, segment: Segment, folder: Path) -> None:
        (folder / "web").mkdir()
        formats.create(folder / "web" / "root.qcow2", 1 << 20)
        self.master = segment.host("192.0.2.1/24", f"{ADDRESS}/24")
        self.appliance = segment.host("192.0.2.2/24")
        self.client = segment.host("192.0.2.3/24")
        self.site = Wired(folder, [folder / "web" / "root.qcow2"], self.master)

    def go(self) -> Progress:
        cause = Trigger(by="eve", reason="", decided=10.0)
        choice: Callable[[str], Accelerator] = lambda _: Accelerator("tcg", "tried")  # noqa: E731
        return self.appliance.call(lambda: run_switchover(self.site, NullHost(), cause, choose_accelerator=choice))

    def answers(self) -> str:
        """The MAC that the client finds."""
        assert self.client.reaches(ADDRESS)
        return self.client.neighbour(ADDRESS)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    segment = Segment()
    yield World(segment, tmp_path)
    segment.close()


def test_the_address_leaves_the_master_before_it_comes_to_the_appliance(world: World) -> None:
    eventually(lambda: world.client.reaches(ADDRESS))
    assert world.answers() == world.master.mac()
    assert world.go().state == SERVING
    assert f"{ADDRESS}/24" not in world.master.addresses()
    assert world.answers() == world.appliance.mac()


def test_a_stranger_with_the_address_sends_everything_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the address the moment the master has given it up."""
    hand_over = Wired.hand_over

    def and_a_thief(site: Wired, limit: float) -> None:
        hand_over(site, limit)
        world.client.ip("address", "add", f"{ADDRESS}/24", "dev", "eth0")

    give_back = Wired.give_back_lease

    def and_it_goes(site: Wired) -> None:
        if f"{ADDRESS}/24" in world.client.addresses():  # asked for by each undo that needs it
            world.client.ip("address", "del", f"{ADDRESS}/24", "dev", "eth0")
        give_back(site)

    monkeypatch.setattr(Wired, "hand_over", and_a_thief)
    monkeypatch.setattr(Wired, "give_back_lease", and_it_goes)
    with pytest.raises(NetworkError, match="cannot be applied") as caught:
        world.go()
    assert "rolled back: the master serves as before" in caught.value.cause
    assert f"{ADDRESS}/24" in world.master.addresses()
    assert f"{ADDRESS}/24" not in world.appliance.addresses()
    assert (world.site.serves, world.site.holder) == (True, "master")
    assert not planned.ledger.load(world.site.folder)
