"""The non-disruptive test: a point boots, is watched, asked, reported and thrown away, while replication goes on.

What it does stands in `test.json` of the scenario's folder, before and after each step, and not in the file of
failovers: neither is ever in the other's way. What a `kill -9` leaves is cleared up from it (`clear_cut_off`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.decoding import from_json
from rha.errors import RhaError, StateError, VmError
from rha.switch import bootreport
from rha.switch.bootplan import BootStep, Scene, cpus_of, domain_of_test, memory_of, plan
from rha.switch.bootreport import AFTER, BEFORE, CUT_OFF, DURING, ENDED, FAILED, PASSED, UNCHECKED, BootReport
from rha.switch.bootsteps import BootHost, BootProgress, Effects, destroy, undefine
from rha.switch.lag import LagWatch
from rha.switch.plan import Step
from rha.switch.progress import Trigger
from rha.switch.ready import keep_picture
from rha.switch.runner import Effect, Run, Say, in_words, log
from rha.units import show_seconds
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost

FILE, KIND = "test.json", "test"
LAG_SECONDS = 2.0  # of looking at the lag before and after


@dataclass(frozen=True)
class BootRun(Run):
    """Its progress is a BootProgress."""

    def store(self) -> None:
        catalog.save(self.folder / FILE, self.progress)


class TestBoot:
    """One test. `run` in a thread of its own; everything else from any thread. `progress`: valid once `run` has begun
    its steps."""

    __test__ = False  # for pytest

    def __init__(
        self,
        host: BootHost,
        vm: VmHost,
        cause: Trigger,
        *,
        at: str = "",
        say: Say = log.info,
        choose_accelerator: Callable[[str], Accelerator] = choose,
    ) -> None:
        self.host, self.vm, self._cause, self._say, self._choose = host, vm, cause, say, choose_accelerator
        self.at = at or host.scenario.test.point
        self.progress: BootProgress | None = None
        self.kept: BootReport | None = None  # valid while the VM is kept
        self.settled = threading.Event()  # the outcome is known; a VM that is kept runs on
        self._ending = threading.Event()
        self._why_ended = ""

    def plan(self) -> tuple[Step, ...]:
        """What `run` would do now. Raises as `bootplan.plan`, and StateError when there is no such point."""
        steps = plan(look(self.host, self.vm, self.at))
        self.host.find_point(self.at)
        return steps

    def end(self, why: str) -> None:
        """Makes it end soon: what waits for the guest sees its power cut."""
        self._why_ended = self._why_ended or why
        self._ending.set()
        progress = self.progress
        if progress and BootStep.START_DOMAIN in progress.begun:
            with suppress(VmError):  # its own clearing up says so
                self.vm.destroy(progress.domain)

    def run(self, *, keep: bool = False) -> BootReport:
        """Boots, asks, reports, throws away. `keep`: the VM runs on for a person, until `end` or the test's limit.

        Raises StateError or VmError when it is refused; nothing was done then. A test that fails is no error.
        """
        todo = self.plan()
        progress = self._begin()
        effects = Effects(self.host, self.vm, progress, lambda: self._why_ended, self._choose)
        run = BootRun(self.host.folder, progress, effects.all, self._say)
        with LagWatch(self.host.behind) as lags:
            lags.enter(BEFORE)
            self._ending.wait(LAG_SECONDS)
            lags.enter(DURING)
            bug = self._attempt(run, todo)
            self._keep_picture(progress)
            progress.lag = lags.phases
            if keep and progress.outcome != ENDED:
                self._hold(run)
            left = clear_up(run)
            if not self._ending.is_set():
                lags.enter(AFTER)
                self._ending.wait(LAG_SECONDS)
        report = conclude(run, left, self.host.scenario.test.keep)
        if bug:
            raise bug
        return report

    def _begin(self) -> BootProgress:
        scenario, begun = self.host.scenario, self._cause.decided
        folder = bootreport.make_folder(self.host.folder, begun)
        self.progress = BootProgress(
            scenario=scenario.name,
            trigger=self._cause,
            kind=KIND,
            at=self.at,
            report=folder.name,
            domain=domain_of_test(scenario.name),
            memory=memory_of(scenario),
            cpus=cpus_of(scenario),
        )
        return self.progress

    def _attempt(self, run: BootRun, todo: Sequence[Step]) -> Exception | None:
        """Does the steps, and notes the outcome. Returns what was a bug."""
        progress, failure = self.progress, None
        assert progress is not None
        try:
            for step in todo:
                self.must_go_on()
                run.do(step)
        except Exception as error:  # noqa: BLE001 - whatever it was, the test is cleared up and reported first
            failure = error
        why = in_words(failure) if failure else ""
        progress.outcome, progress.outcome_why = outcome(progress, why, self._why_ended)
        run.store()
        self._say(f"test {progress.outcome}: {progress.outcome_why}")
        return None if failure is None or isinstance(failure, RhaError) else failure

    def must_go_on(self) -> None:
        """Raises StateError when the test is to end."""
        if self._ending.is_set():
            raise StateError(f"the test is ended: {self._why_ended}")

    def _keep_picture(self, progress: BootProgress) -> None:
        folder = self.host.folder / bootreport.FOLDER / progress.report
        progress.screen = keep_picture(self.vm, progress.domain, folder / bootreport.SCREEN)

    def _hold(self, run: BootRun) -> None:
        assert self.progress is not None
        self.progress.why = f"{self.progress.outcome}; the VM is kept for a look"
        self.kept = report_of(self.progress)
        self.kept.kept = True
        bootreport.write(self.host.folder, self.kept)
        self._say(f"test: domain {self.progress.domain} is kept, for {show_seconds(self.host.scenario.test.limit)}")
        self.settled.set()
        self._ending.wait(self.host.scenario.test.limit)


def look(host: BootHost, vm: VmHost, at: str) -> Scene:
    name = host.scenario.name
    return Scene(host.scenario, at, vm.state(domain_of_test(name)), host.why_switched(), vm.free_memory())


def outcome(progress: BootProgress, failure: str, ended: str) -> tuple[str, str]:
    """What the test has shown, and its sentence. `failure`: what a step failed of; `ended`: why it was ended early."""
    if ended:
        return ENDED, ended
    if failure:
        return FAILED, failure
    if not progress.checks:
        return UNCHECKED, "the guest ran, and no check asked it anything"
    took = ""
    if progress.started and progress.ready:
        took = f"ready after {show_seconds(progress.ready - progress.started)}, "
    count = len(progress.checks)
    return PASSED, f"{took}{count} of {count} checks answered"


def clear_up(run: BootRun) -> str:
    """Takes everything back. Returns what could not be, empty when nothing is left."""
    try:
        run.roll_back("the test is over")
    except Exception as error:  # noqa: BLE001 - kept, reported, and tried again
        return in_words(error)
    return ""


def conclude(run: BootRun, left: str, keep: int) -> BootReport:
    """Writes the report, and forgets the test unless something is left of it. Raises StorageError."""
    progress = run.progress
    assert isinstance(progress, BootProgress)
    report = report_of(progress, left)
    bootreport.write(run.folder, report)
    bootreport.prune(run.folder, keep)
    if not left:
        (run.folder / FILE).unlink(missing_ok=True)
    return report


def report_of(progress: BootProgress, left: str = "") -> BootReport:
    took = {step.name: step.seconds for step in progress.steps}
    ready = progress.ready - progress.started if progress.ready and progress.started else None
    machine = "domain memory cpus firmware firmware_why bus accelerator accelerator_why"
    same = f"scenario at point {machine} steps checks lag screen"
    return BootReport(
        folder=progress.report,
        by=progress.trigger.by,
        reason=progress.trigger.reason,
        begun=progress.trigger.decided,
        ended=time.time(),
        outcome=progress.outcome,
        why=progress.outcome_why,
        open_seconds=took.get(BootStep.OPEN_POINT),
        define_seconds=took.get(BootStep.DEFINE_DOMAIN),
        start_seconds=took.get(BootStep.START_DOMAIN),
        ready_seconds=ready,
        left=left,
        **{field: getattr(progress, field) for field in same.split()},
    )


# After a crash ------------------------------------------------------------------------------------------------------


def load(scenario_folder: Path) -> BootProgress | None:
    """The test of a scenario's folder; None: there is none, or what is there cannot be read: then only the domain's own
    mark says that there was one."""
    with suppress(OSError, msgspec.MsgspecError):
        return from_json((scenario_folder / FILE).read_bytes(), BootProgress)
    return None


def clear_cut_off(folder: Path, vm: VmHost, scenario: str, keep: int, close: Callable[[], None], say: Say) -> bool:
    """Clears up what a test has left that nobody runs any more, and reports it. True: there was one.

    `close`: closes its point, if that is open. Raises VmError while the VM host does not answer.
    """
    past = load(folder)
    if past is None:
        undefine(vm, scenario)
        return False
    say(f"test of {past.report} was cut off: clearing up")
    effects: dict[str, Effect] = {
        BootStep.OPEN_POINT: Effect(lambda _: None, close),
        BootStep.DEFINE_DOMAIN: Effect(lambda _: None, lambda: undefine(vm, scenario)),
        BootStep.START_DOMAIN: Effect(lambda _: None, lambda: destroy(vm, scenario)),
    }
    run = BootRun(folder, past, effects, say)
    if not past.outcome:
        past.outcome = CUT_OFF
        past.outcome_why = f"the appliance ended in its middle: {past.why}" if past.why else "the appliance ended"
    run.roll_back("the appliance ended in its middle")
    conclude(run, "", keep)
    return True
