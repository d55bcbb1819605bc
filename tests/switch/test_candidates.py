"""A substitute that does not come to serve: earlier points are tried, if the scenario lets it, and that is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from rha.errors import VmError
from rha.image import formats
from rha.report import Point
from rha.scenario import Check, Duration, Vm
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.failover import run_failover
from rha.switch.plan import StepName
from rha.switch.progress import FAILED, SERVING, Progress, Trigger
from rha.switch.steps import Steps
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.switch.one_scenario import OneScenario

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
CAUSE = Trigger(by="appliance", reason="silent", decided=2010.0, last_heartbeat=1000.5, last_heard=2002.0)
EARLIER = [Point(lsn=2048, time=700.0), Point(lsn=1024, time=100.0)]


class Site(OneScenario):
    """Its guests serve from the points whose LSN is in `good`."""

    def __init__(self, folder: Path, candidates: int) -> None:
        (folder / "web").mkdir()
        formats.create(folder / "web" / "root.qcow2", 1 << 20)
        ready = Check(kind="tcp", address="127.0.0.1:9")
        vm = Vm(firmware="bios", bus="virtio", ready=ready, ready_timeout=Duration(0.3), candidates=candidates)
        super().__init__(folder, [folder / "web" / "root.qcow2"], vm)
        self.earlier, self.good, self.vm, self.said = [*EARLIER], set[int](), NullHost(), list[str]()

    def go(self, wanted: Point | None = None) -> Progress:
        return run_failover(
            self, self.vm, CAUSE, wanted=wanted, say=self.said.append,
            choose_accelerator=lambda _: Accelerator("tcg", "tried"),
        )  # fmt: skip

    def past(self) -> Progress:
        past = ledger.load(self.folder)
        assert past is not None
        return past


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The check answers from a good point, without a guest."""
    really = Steps._wait_ready

    def wait(steps: Steps, limit: float) -> None:
        point = steps.progress.point
        if point and point.lsn in steps.host.good:  # type: ignore[attr-defined]
            wanted = msgspec.structs.replace(steps.host.scenario.vm, ready=None)
            steps.host.scenario = msgspec.structs.replace(steps.host.scenario, vm=wanted)  # type: ignore[misc]
        really(steps, limit)

    monkeypatch.setattr(Steps, "_wait_ready", wait)


def test_the_next_point_that_boots_serves_and_what_is_missing_is_said(tmp_path: Path) -> None:
    site = Site(tmp_path, 3)
    site.good = {1024}
    progress = site.go()
    assert (progress.state, progress.point) == (SERVING, EARLIER[1])
    assert [one.point.lsn for one in progress.tried if one.point] == [4096, 2048]
    assert "2 newer did NOT boot" in progress.sentence()
    assert progress.rpo_seconds == 900.5
    aloud = [line for line in site.said if "EARLIER" in line]
    assert "LSN 2048" in aloud[0]
    assert aloud[0].endswith("2 more may be tried")
    assert site.vm.calls.count("destroy rha-web") == 2
    assert [one.outcome for one in switches.read(site.folder)] == [FAILED, FAILED, SERVING]


def test_only_so_many_as_the_scenario_allows(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    site.good = {1024}
    with pytest.raises(VmError, match="does not serve"):
        site.go()
    assert (site.past().state, site.past().point, len(site.past().tried)) == (FAILED, EARLIER[0], 1)


@pytest.mark.parametrize(("candidates", "wanted"), [(0, None), (3, Point(lsn=3072, time=900.0))])
def test_none_without_leave_and_none_instead_of_a_person_s(
    tmp_path: Path, candidates: int, wanted: Point | None
) -> None:
    site = Site(tmp_path, candidates)
    with pytest.raises(VmError):
        site.go(wanted)
    assert "earlier_point" not in site.calls
    assert site.past().tried == []


def test_no_earlier_point_is_said(tmp_path: Path) -> None:
    site = Site(tmp_path, 3)
    site.earlier = []
    with pytest.raises(VmError):
        site.go()
    assert any(line.startswith("no point before LSN 4096 ") for line in site.said)
    assert "destroy rha-web" not in site.vm.calls, "a person may still look at it"


class Cut(BaseException):
    """The process ends here."""


def test_killed_between_two_points_it_goes_on_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, 3)
    site.good = {2048}

    close = Steps._close_images

    def cut(steps: Steps, limit: float) -> None:
        if steps.progress.tried:
            raise Cut
        close(steps, limit)

    monkeypatch.setattr(Steps, "_close_images", cut)
    with pytest.raises(Cut):
        site.go()
    assert StepName.START_DOMAIN not in site.past().begun
    monkeypatch.setattr(Steps, "_close_images", close)
    assert (site.go().state, site.past().point) == (SERVING, EARLIER[0])
