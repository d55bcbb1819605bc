"""The runner with real images and a VM host that runs nothing: order, progress on disk, crashes, refusals."""

import fcntl
import shutil
from functools import partial
from pathlib import Path

import pytest

from rha.errors import RhaError, StateError, StorageError
from rha.image import formats
from rha.report import Point
from rha.scenario import Vm
from rha.switch import progress as ledger
from rha.switch.failover import are_images_taken, discard_substitute, run_failover, steps_ahead
from rha.switch.plan import StepName
from rha.switch.progress import FAILED, RUNNING, SERVING, Progress, Trigger, measure, vm_report
from rha.switch.runner import Effect
from rha.switch.steps import Steps
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.switch.one_scenario import OneScenario
from tests.switch.test_plan import PLAIN

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
CAUSE = Trigger(by="appliance", reason="silent", decided=2010.0, last_heartbeat=1000.5, last_heard=2002.0)


@pytest.fixture
def host(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    images = [folder / "root.qcow2", folder / "data.qcow2"]
    for image in images:
        formats.create(image, 1 << 20)
    return OneScenario(tmp_path, images, Vm(firmware="bios", bus="virtio"))


def go(host, vm, **words):
    return run_failover(host, vm, CAUSE, choose_accelerator=lambda _: Accelerator("tcg", "tried"), **words)


def test_everything_in_order(host):
    vm, said = NullHost(), []
    progress = go(host, vm, say=said.append)
    assert host.calls == ["stop_receiving", "apply_spool", "close_images"]
    assert vm.calls == ["define rha-web", "start rha-web"]
    assert [line.partition(":")[0] for line in said] == [*PLAIN, "serving"]
    assert ledger.load(host.folder) == progress
    assert progress.state == SERVING
    assert all(step.seconds is not None for step in progress.steps)
    assert [formats.info(path).full_backing_filename for path in vm.specs["rha-web"].disks] == list(
        map(str, host.images)
    )


def test_figures_and_their_sentence(host):
    progress = go(host, NullHost())
    assert progress.rpo_seconds == 0.5
    assert progress.detect_seconds == 8.0
    assert progress.rpo_at_most_seconds == 8.5
    assert progress.rto_seconds == progress.ready - 2002.0
    assert progress.sentence().startswith("serving: domain rha-web (tcg: tried), RPO 0.5 s, RTO ")
    assert vm_report(progress).rpo_seconds == 0.5


def test_unknown_times_stay_unknown():
    progress = Progress(
        scenario="web", trigger=Trigger(by="eve", reason="", decided=10.0), point=Point(lsn=1, time=5.0)
    )
    measure(progress)
    assert (progress.rpo_seconds, progress.rto_seconds, progress.detect_seconds) == (None, None, None)


def test_dry_run_changes_nothing(host):
    assert steps_ahead(host, NullHost())[0] == "stop receiving from the master"
    assert host.calls == []
    assert ledger.load(host.folder) is None


def test_refusal_changes_nothing(host):
    host.why = "a sync is running"
    with pytest.raises(StateError):
        go(host, NullHost())
    assert host.calls == []
    assert ledger.load(host.folder) is None
    assert go(host, NullHost(), force=True).rpo_seconds is None


def test_a_failed_step_is_named_and_can_be_tried_again(host):
    host.broken = {"close_images"}
    vm = NullHost()
    with pytest.raises(StorageError):
        go(host, vm)
    failed = ledger.load(host.folder)
    assert (failed.state, failed.sentence()) == (FAILED, "failed: close-images: close_images broke")
    assert failed.steps[-1].failure == "close_images broke"
    assert not are_images_taken(host.folder)
    host.broken = set()
    assert go(host, vm).state == SERVING


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("cut", PLAIN)
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_it_ends_serving_with_the_guests_writes(host, cut, after, monkeypatch):
    """Killed just before or just after the effect of each step."""
    vm = NullHost()

    class CutSteps(Steps):
        def __init__(self, *words):
            super().__init__(*words)
            self.effects = {name: Effect(partial(self.cut_do, name, effect)) for name, effect in self.effects.items()}

        def cut_do(self, name, effect, limit):
            if name == cut and not after:
                raise Cut
            effect.do(limit)
            if name == StepName.START_DOMAIN:  # the guest writes at once
                formats._run("bench", ["-w", "-c1", "-q", "-f", "qcow2", self.progress.images[0].overlay], host.folder)
            if name == cut:
                raise Cut

    monkeypatch.setattr("rha.switch.failover.Steps", CutSteps)
    with pytest.raises(Cut):
        go(host, vm)
    past = ledger.load(host.folder)
    assert past.state == RUNNING
    assert past.is_unfinished
    assert are_images_taken(host.folder) == (PLAIN.index(cut) >= PLAIN.index(StepName.START_DOMAIN))
    overlay = host.folder / "substitute" / "root.qcow2"
    inode = overlay.stat().st_ino if are_images_taken(host.folder) else None
    monkeypatch.undo()
    assert go(host, vm).state == SERVING
    assert vm.calls.count("start rha-web") == 1
    assert inode in (None, overlay.stat().st_ino), "the overlay that the guest wrote to was replaced"


def test_serving_twice_is_refused(host):
    vm = NullHost()
    go(host, vm)
    with pytest.raises(StateError, match="serves already"):
        go(host, vm)


def test_two_at_once_are_refused(host):
    with (host.folder / "failover.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="at work"):
            go(host, NullHost())


def test_discard_leaves_what_is_not_its_own(host):
    vm = NullHost()
    stranger = Path(go(host, vm).images[0].overlay).with_name("notes.txt")
    stranger.write_text("why we failed over")
    discard_substitute(host.folder, vm, "web")
    assert [path.name for path in stranger.parent.iterdir()] == ["notes.txt"]


def test_discard_leaves_the_images_alone(host):
    vm = NullHost()
    go(host, vm)
    discard_substitute(host.folder, vm, "web")
    discard_substitute(host.folder, vm, "web")
    assert vm.calls[-2:] == ["destroy rha-web", "undefine rha-web"]
    assert sorted(path.name for path in host.folder.iterdir()) == [
        "data.qcow2",
        "failover.lock",
        "root.qcow2",
        "screen.png",
        "switches.jsonl",
    ]
    assert go(host, vm).state == SERVING


def test_an_unreadable_record_is_no_permission(host):
    (host.folder / "failover.json").write_text("{")
    for act in (lambda: go(host, NullHost()), lambda: are_images_taken(host.folder)):
        with pytest.raises(RhaError, match=r"failover\.json cannot be read"):
            act()
