"""A planned move: its plan, its way back from every step, and what a killed appliance does when it starts again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from rha.errors import HostError, NetworkError, RhaError, StateError, StorageError
from rha.image import formats
from rha.report import Point
from rha.scenario import Switch
from rha.switch import planned, switches
from rha.switch import progress as ledger
from rha.switch.failover import are_images_taken, discard_substitute, is_revocable, run_failover
from rha.switch.plan import StepName
from rha.switch.planned import SwitchoverSteps, roll_back, run_switchover, steps_ahead
from rha.switch.progress import FAILED, ROLLED_BACK, ROLLING_BACK, RUNNING, SERVING, SWITCHOVER, Progress, Trigger
from rha.switch.runner import Effect
from rha.switch.switchover import plan
from rha.vm.accelerator import Accelerator
from rha.vm.base import DomainState
from rha.vm.null import NullHost
from tests.switch.planned_site import LSN, PlannedSite
from tests.switch.test_plan import STARTED, WORLD

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
CAUSE = Trigger(by="eve", reason="new firmware", decided=2010.0, last_heard=2009.0)
MOVES = [
    StepName.RELEASE,
    StepName.RECEIVE_LAST,
    StepName.HOLD_IMAGES,
    StepName.CLOSE_IMAGES,
    StepName.MAKE_OVERLAY,
    StepName.DEFINE_DOMAIN,
    StepName.HAND_OVER,
    StepName.START_DOMAIN,
    StepName.STOP_RECEIVING,
    StepName.WAIT_READY,
    StepName.RECORD,
]
REVOCABLE = MOVES[: MOVES.index(StepName.START_DOMAIN)]


@pytest.fixture
def site(tmp_path: Path) -> PlannedSite:
    folder = tmp_path / "web"
    folder.mkdir()
    images = [folder / "root.qcow2", folder / "data.qcow2"]
    for image in images:
        formats.create(image, 1 << 20)
    return PlannedSite(tmp_path, images)


def go(site: PlannedSite, vm: NullHost) -> Progress:
    return run_switchover(site, vm, CAUSE, choose_accelerator=lambda _: Accelerator("tcg", "tried"))


def assert_as_before(site: PlannedSite, vm: NullHost) -> None:
    """The master serves with its lease, the appliance receives, and nothing of the attempt is left but its history."""
    assert (site.serves, site.holder, site.held) == (True, "master", False)
    assert vm.state("rha-web") == DomainState.ABSENT
    left = {path.name for path in site.folder.iterdir()} - {"failover.lock", "redirect"}
    assert left == {"data.qcow2", "root.qcow2", "switches.jsonl"}
    assert not are_images_taken(site.folder)
    assert switches.read(site.folder)[-1].outcome == ROLLED_BACK


# The plan -----------------------------------------------------------------------------------------------------

SWITCH = replace(WORLD, scenario=msgspec.structs.replace(WORLD.scenario, switch=Switch(units=["app.service"])))


def test_the_steps_in_order_and_their_ways_back() -> None:
    steps = plan(SWITCH, None)
    assert [step.name for step in steps] == [StepName.CHECK_MASTER, StepName.CHECK_HOST, *MOVES]
    assert {step.name: step.undo for step in steps if step.undo} == {
        StepName.RELEASE: "the master starts again what it has stopped",
        StepName.MAKE_OVERLAY: "remove the overlays",
        StepName.DEFINE_DOMAIN: "undefine the domain",
    }
    assert steps[2].sentence == "the master stops app.service and writes out what it holds"


def test_a_master_that_is_to_be_off_is_off_before_the_substitute_starts() -> None:
    switch = Switch(units=["app.service"], after="poweroff")
    names = [step.name for step in plan(replace(SWITCH, scenario=msgspec.structs.replace(
        SWITCH.scenario, switch=switch)), None)]  # fmt: skip
    assert names.index(StepName.HAND_OVER) + 1 == names.index(StepName.POWER_OFF)
    assert names.index(StepName.POWER_OFF) + 1 == names.index(StepName.START_DOMAIN)


def test_refusals() -> None:
    with pytest.raises(StateError) as caught:
        plan(SWITCH, "its master is not connected")
    assert caught.value.cause == "its master is not connected"
    with pytest.raises(StateError) as caught:
        plan(WORLD, None)
    assert "names nothing that is to be stopped" in caught.value.cause
    with pytest.raises(StateError, match="a failover of web has begun"):
        plan(replace(SWITCH, kind="failover", begun=STARTED), None)
    with pytest.raises(StateError, match="is being rolled back"):
        plan(replace(SWITCH, kind=SWITCHOVER, begun=frozenset(REVOCABLE)), None)


def test_behind_the_point_of_no_return_images_and_overlays_are_never_touched() -> None:
    begun = frozenset({*REVOCABLE, StepName.START_DOMAIN})
    for domain in DomainState:
        steps = plan(replace(SWITCH, kind=SWITCHOVER, begun=begun, domain=domain), "the master is off")
        assert not {step.name for step in steps} & set(REVOCABLE) - {StepName.DEFINE_DOMAIN}


# Doing it -----------------------------------------------------------------------------------------------------


def test_nothing_is_lost(site: PlannedSite) -> None:
    vm = NullHost()
    progress = go(site, vm)
    assert (progress.state, progress.rpo_seconds, progress.point) == (SERVING, 0.0, Point(lsn=LSN + 512, time=1000.0))
    assert (site.serves, site.holder) == (False, "appliance")
    assert site.calls == ["may_release", "release", "receive_last", "hold_images", "close_images", "hand_over",
                          "stop_receiving"]  # fmt: skip
    (done,) = switches.read(site.folder)
    assert (done.kind, done.by, done.reason, done.outcome) == (SWITCHOVER, "eve", "new firmware", SERVING)
    assert [step.name for step in done.steps] == MOVES


def test_dry_run_changes_nothing(site: PlannedSite) -> None:
    assert len(steps_ahead(site, NullHost())) == len(MOVES) + 2
    assert site.calls == []
    assert ledger.load(site.folder) is None


def test_images_that_lack_the_last_write_are_no_switchover(site: PlannedSite) -> None:
    site.point, vm = Point(lsn=LSN - 1, time=1.0), NullHost()
    with pytest.raises(StorageError) as caught:
        go(site, vm)
    assert caught.value.what == "the images do not hold the last write"
    assert caught.value.cause.endswith("rolled back: the master serves as before")
    assert_as_before(site, vm)


def test_no_memory_is_said_before_anything_is_changed(site: PlannedSite) -> None:
    vm = NullHost()
    vm.free = 1 << 20
    with pytest.raises(HostError, match="no memory for rha-web"):
        go(site, vm)
    assert (site.calls, ledger.load(site.folder)) == (["may_release"], None)


@pytest.mark.parametrize("broken", ["release", "receive_last", "hold_images", "close_images", "hand_over"])
def test_a_step_that_fails_is_taken_back_with_all_before_it(site: PlannedSite, broken: str) -> None:
    site.broken, vm = {broken}, NullHost()
    with pytest.raises(RhaError, match=f"{broken} broke") as caught:
        go(site, vm)
    assert "rolled back: the master serves as before" in caught.value.cause
    assert_as_before(site, vm)
    site.broken = set()
    assert go(site, vm).state == SERVING


@pytest.mark.parametrize("lost", ["release", "resume"])
def test_an_answer_that_is_lost_leaves_one_state(site: PlannedSite, lost: str) -> None:
    site.lost, vm = {lost}, NullHost()
    site.broken = {"receive_last"} if lost == "resume" else set()
    with pytest.raises(RhaError) as caught:
        go(site, vm)
    if lost == "resume":
        assert "NOT rolled back yet" in caught.value.cause
        past = ledger.load(site.folder)
        assert past is not None
        assert (past.state, is_revocable(past)) == (ROLLING_BACK, True)
        roll_back(site, vm)
    assert_as_before(site, vm)


def test_a_lease_that_comes_while_all_is_taken_back_is_given_back_too(
    site: PlannedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master is still busy with its order to hand over when it is told to resume."""
    do = PlannedSite._do

    def busy(site: PlannedSite, verb: str) -> object:
        if verb == "resume" and "late" in site.lost:
            site.lost.discard("late")
            site.holder = "appliance"
            raise StateError("another holds the lease of this master")
        return do(site, verb)

    def slow(site: PlannedSite, limit: float) -> None:
        site.lost.add("late")
        raise NetworkError("whether the engine has done 'hand_over' is not known")

    monkeypatch.setattr(PlannedSite, "_do", busy)
    monkeypatch.setattr(PlannedSite, "hand_over", slow)
    vm = NullHost()
    with pytest.raises(NetworkError) as caught:
        go(site, vm)
    assert "NOT rolled back yet" in caught.value.cause
    roll_back(site, vm)
    assert_as_before(site, vm)


def test_a_master_that_does_not_shut_down_keeps_nobody_waiting(site: PlannedSite) -> None:
    switch = msgspec.structs.replace(site.scenario.switch, after="poweroff")
    site.scenario = msgspec.structs.replace(site.scenario, switch=switch)
    site.broken = {"wait_gone"}
    progress = go(site, NullHost())
    said = {step.name: step.sentence for step in progress.steps}
    assert progress.state == SERVING
    assert said[StepName.POWER_OFF] == "the master shuts down; NOT certain: wait_gone broke: "


class Cut(BaseException):
    """The process ends here."""


def cut_at(monkeypatch: pytest.MonkeyPatch, cut: str, *, after: bool, back: bool = False) -> None:
    """From now on the appliance dies just before or after the effect of a step, or of its undoing."""

    class CutSteps(SwitchoverSteps):
        def __init__(self, *words: object) -> None:
            super().__init__(*words)  # type: ignore[arg-type]
            effect = self.effects[cut]
            undo = effect.undo or (lambda: None)
            do = partial(self.cut, lambda: effect.do(1.0)) if not back else None
            self.effects[cut] = Effect(
                (lambda _: do()) if do else effect.do, partial(self.cut, undo) if back else effect.undo
            )

        def cut(self, act: object) -> None:
            if after:
                act()  # type: ignore[operator]
            raise Cut

    monkeypatch.setattr(planned, "SwitchoverSteps", CutSteps)


def started_again(site: PlannedSite, vm: NullHost) -> None:
    """What the warden does with what it finds."""
    past = ledger.load(site.folder)
    assert past is not None
    if is_revocable(past):
        site.held = False  # a new process has the images open
        roll_back(site, vm)
    else:
        go(site, vm)


@pytest.mark.parametrize("cut", MOVES)
@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_it_ends_in_one_state(
    site: PlannedSite, cut: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = NullHost()
    cut_at(monkeypatch, cut, after=after)
    with pytest.raises(Cut):
        go(site, vm)
    past = ledger.load(site.folder)
    assert past is not None
    assert past.state == RUNNING
    assert are_images_taken(site.folder) != is_revocable(past)
    overlay = site.folder / "substitute" / "root.qcow2"
    inode = overlay.stat().st_ino if are_images_taken(site.folder) else None
    monkeypatch.undo()
    started_again(site, vm)
    if cut in REVOCABLE:
        assert_as_before(site, vm)
    else:
        assert (site.serves, site.holder) == (False, "appliance")
        assert vm.state("rha-web") == DomainState.RUNNING
        assert vm.calls.count("start rha-web") == 1
        assert inode == overlay.stat().st_ino, "the overlay that the guest wrote to was replaced"
        assert ledger.load(site.folder).state == SERVING  # type: ignore[union-attr]


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_the_master_shuts_down_it_goes_on(
    site: PlannedSite, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was told or not: it has handed over, and may be off."""
    switch = msgspec.structs.replace(site.scenario.switch, after="poweroff")
    site.scenario = msgspec.structs.replace(site.scenario, switch=switch)
    vm = NullHost()
    cut_at(monkeypatch, StepName.POWER_OFF, after=after)
    with pytest.raises(Cut):
        go(site, vm)
    assert are_images_taken(site.folder)
    monkeypatch.undo()
    started_again(site, vm)
    assert (site.serves, site.holder, vm.state("rha-web")) == (False, "appliance", DomainState.RUNNING)


@pytest.mark.parametrize("cut", [StepName.RELEASE, StepName.MAKE_OVERLAY, StepName.DEFINE_DOMAIN, StepName.HAND_OVER])
@pytest.mark.parametrize("after", [False, True])
def test_killed_on_the_way_back_it_goes_on_with_it(
    site: PlannedSite, cut: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = NullHost()
    site.broken = {"hand_over"}
    cut_at(monkeypatch, cut, after=after, back=True)
    with pytest.raises(Cut):
        go(site, vm)
    monkeypatch.undo()
    started_again(site, vm)
    assert_as_before(site, vm)


def test_a_master_that_dies_meanwhile_is_failed_over(site: PlannedSite) -> None:
    vm = NullHost()
    site.broken = {"receive_last", "resume"}
    with pytest.raises(RhaError):
        go(site, vm)
    cause = Trigger(by="appliance", reason="silent", decided=3000.0)
    progress = run_failover(site, vm, cause, choose_accelerator=lambda _: Accelerator("tcg", "tried"))
    assert (progress.state, progress.kind, progress.trigger) == (SERVING, "failover", cause)
    assert [(one.kind, one.outcome) for one in switches.read(site.folder)] == [
        (SWITCHOVER, FAILED),
        ("failover", SERVING),
    ]


def test_a_substitute_that_does_not_start_is_tried_again_or_discarded(site: PlannedSite) -> None:
    class Down(NullHost):
        is_down = True

        def start(self, name: str) -> None:
            if self.is_down:
                raise NetworkError("libvirt is down")
            super().start(name)

    vm = Down()
    with pytest.raises(NetworkError):
        go(site, vm)
    past = ledger.load(site.folder)
    assert past is not None
    assert (past.state, is_revocable(past)) == (FAILED, False)
    vm.is_down = False
    assert go(site, vm).state == SERVING
    discard_substitute(site.folder, vm, "web", release=site.give_back_lease)
    assert site.holder == "master"
