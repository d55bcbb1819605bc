"""What people ask of a warden, on a real replica with points: an earlier one, a pause, a master that was forgotten."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from one_replica import DISK_BYTES, NAME
from test_points import quick, replica, synced

from rha.appliance import maintenance
from rha.appliance.replica import Replica
from rha.appliance.switch_verbs import SwitchVerbs
from rha.appliance.warden import Warden
from rha.errors import NetworkError, StateError
from rha.fence.base import FencePlace
from rha.fence.etcd import Access
from rha.fence.taking import Means
from rha.report import Point, Report
from rha.scenario import Vm
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.progress import RUNNING, SWITCHOVER, Progress, StepRecord, Trigger
from rha.vm.null import NullHost
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import Heartbeat

__all__ = ["quick", "replica"]


class Site:
    """`ordered`: what the master was told; `away`: it does not answer."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.vm, self.ordered, self.away = replica, NullHost(), list[str](), False
        self.warden = self.open()
        self.verbs = SwitchVerbs(lambda _: self.warden)

    def open(self) -> Warden:
        """As an appliance that was started anew."""
        store = self.replica.folder.parent
        means = Means(FencePlace(NAME, store / "fence", store), "appliance test", Access(()))

        def ask(*_: Any) -> Any:
            raise AssertionError("no observer is configured")

        return Warden(self.replica, store, self.vm, lambda _: None, means, ask, self.order)

    def order(self, verb: str, limit: float, **_: Any) -> str:
        if self.away:
            raise StateError("the master is not connected")
        self.ordered.append(verb)
        return verb

    def hear(self, **words: Any) -> None:
        """A heartbeat."""
        fields = {"role": "engine", "scenario": NAME, "mode": "dr", "time": 0.0, "health": "ok", "state": "write-order"}
        report = Report(**{**fields, "why": "", "disks": [], **words})
        beat = frames.control(FrameType.HEARTBEAT, Heartbeat(time=time.time(), captured_lsn=0, report=report))
        self.replica.take(frames.decode_header(beat[: frames.HEADER_BYTES]), memoryview(beat)[frames.HEADER_BYTES :])

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(one.kind, one.by) for one in switches.read(self.replica.folder)]


@pytest.fixture
def site(replica: Replica) -> Iterator[Site]:
    site = Site(replica)
    yield site
    site.warden.stop()


def raw(image: Path, folder: Path) -> bytes:
    """What a guest would see, by QEMU's own tools."""
    target = folder / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(target)], check=True)
    return target.read_bytes()


# An earlier point ---------------------------------------------------------------------------------------------


def test_failover_to_an_earlier_point(site: Site, tmp_path: Path) -> None:
    draw = random.Random(31)
    master = synced(site.replica, draw)
    master.churn(draw, 30)
    master.settle()
    wanted = draw.choice(master.boundaries[:100])
    vm = Vm(firmware="bios", accelerator="tcg")
    site.replica._intake.scenario = msgspec.structs.replace(site.replica.scenario, vm=vm)
    ahead = site.verbs.failover(NAME, dry_run=True, at=str(wanted))
    assert any(f"shown as they were at LSN {wanted} (" in step for step in ahead["steps"])
    assert site.vm.calls == []
    done = site.verbs.failover(NAME, at=str(wanted), person="eve", reason="ransom")
    assert done["sentence"].startswith("serving: domain rha-")
    (disk,) = site.vm.specs[f"rha-{NAME}"].disks
    assert raw(disk, tmp_path) == master.expected(wanted)
    past = ledger.load(site.replica.folder)
    assert past is not None
    assert past.point is not None
    assert (past.point.lsn, past.trigger.by, past.trigger.reason) == (wanted, "eve", "ransom")
    with pytest.raises(StateError, match="was started already"):
        site.verbs.failover(NAME, at=str(master.lsn))
    site.verbs.discard(NAME, person="eve")
    assert site.replica.read_image(0, 0, DISK_BYTES) == master.expected(master.lsn), "the replica kept what came after"
    assert site.kinds == [("failover", "eve"), ("discard", "eve")]


def test_a_point_that_is_not_there_changes_nothing(site: Site) -> None:
    synced(site.replica, random.Random(32))
    for at in ("nonsense", "7", "2131-01-01T00:00"):
        with pytest.raises(StateError):
            site.verbs.failover(NAME, at=at)
    assert ledger.load(site.replica.folder) is None


def test_the_next_candidate_is_a_bookmark_or_so_long_before(site: Site) -> None:
    draw = random.Random(37)
    master = synced(site.replica, draw)
    for _ in range(3):
        master.churn(draw, 5)
        master.settle()
        time.sleep(0.3)
    keeper, newest = site.replica.points, site.replica.point()
    assert newest is not None
    early, late = (keeper.find(str(master.boundaries[n])) for n in (3, -3))
    found = keeper.before(Point(lsn=newest.lsn, time=late.time), late.time - early.time - 0.1)
    assert found is not None
    assert early.lsn <= found.lsn < late.lsn
    assert keeper.before(Point(lsn=8, time=early.time), 300) is None, "nothing is before the first"
    for name, place in (("early", early), ("late", late)):
        keeper.bookmark(name, str(place.lsn), "eve")
    assert keeper.before(newest, 300) == keeper.find("late")
    assert keeper.before(Point(lsn=late.lsn, time=late.time), 300) == keeper.find("early")
    assert site.warden.host().earlier_point(newest, 300) == Point(lsn=late.lsn, time=late.time)


# Maintenance --------------------------------------------------------------------------------------------------


def test_a_pause_holds_over_a_restart_and_is_a_warning(site: Site) -> None:
    synced(site.replica, random.Random(33))
    site.replica.is_connected = True
    said = site.verbs.pause(NAME, person="eve", reason="disks are exchanged", seconds=7200.0)["sentence"]
    assert said.startswith(f"{NAME}: paused by eve since ")
    assert " until " in said
    again = site.open()
    assert again.paused() == said.removeprefix(f"{NAME}: ")
    assert (again.report().paused, again.report().health) == (again.paused(), "warning")
    site.verbs.resume(NAME, person="bob")
    assert again.paused() == ""
    assert again.report().health == "ok"
    with pytest.raises(StateError, match="is not paused"):
        site.verbs.resume(NAME)
    assert site.kinds == [("pause", "eve"), ("resume", "bob")]


def test_a_pause_ends_by_its_time_and_that_is_in_the_history(site: Site) -> None:
    pause = maintenance.Pause(by="eve", reason="", since=time.time() - 10, until=time.time() - 1)
    maintenance.begin(site.replica.folder, pause)
    assert site.warden.paused() == ""
    site.warden._look()
    assert maintenance.load(site.replica.folder) is None
    assert site.kinds == [("resume", "appliance")]


# A master that stands still -----------------------------------------------------------------------------------


def test_a_master_that_stands_still_for_nothing_is_told_to_serve(site: Site) -> None:
    synced(site.replica, random.Random(34))
    site.replica.is_connected = True
    site.hear()
    site.warden._look()
    assert site.ordered == []
    site.hear(released="handed over to an appliance that was discarded")
    site.warden._look()
    site.warden._look()
    assert site.ordered == ["resume"], "once in a while"


def test_a_switchover_that_was_cut_off_is_taken_back_and_one_that_cannot_be_is_watched_over(site: Site) -> None:
    synced(site.replica, random.Random(35))
    cause = Trigger(by="eve", reason="", decided=time.time())
    step = StepRecord(name="release", sentence="the master stops", begun=time.time(), undo="it starts again")
    past = Progress(scenario=NAME, trigger=cause, kind=SWITCHOVER, state=RUNNING, why="the master stops", steps=[step])
    ledger.store(site.replica.folder, past)
    assert site.warden.why_not_receive() is None, "it has to be told"
    site.away = True
    assert not site.warden._go_on_with_switch(), "a master that does not come back must be failed over"
    report = site.warden.report()
    assert (report.state, report.health) == ("rolling-back", "alarm")
    assert "the master is not connected" in report.why
    site.away, site.warden._order_at = False, 0.0
    site.warden._go_on_with_switch()
    assert site.ordered == ["resume"]
    assert ledger.load(site.replica.folder) is None
    assert switches.read(site.replica.folder)[-1].outcome == "rolled-back"


def test_an_order_that_is_refused_is_said_and_repeated(site: Site) -> None:
    synced(site.replica, random.Random(36))
    site.replica.is_connected, site.away = True, True
    site.hear(released="released")
    for _ in range(2):
        site.warden._order_at = 0.0
        with pytest.raises((StateError, NetworkError)):
            site.warden._look()
