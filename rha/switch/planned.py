"""Runs a switchover. Until its point of no return a step that fails, or `kill -9`, is followed by the way back: the
master serves as before, the appliance receives again, no file of it is left. After it the switch goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from rha.errors import HostError, RhaError, StateError, StorageError
from rha.report import Point
from rha.scenario import MoveIp
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.failover import ended_well, is_revocable, look
from rha.switch.plan import StepName, is_image_in_use
from rha.switch.progress import FAILED, RUNNING, SWITCHOVER, Progress, Released, Trigger
from rha.switch.runner import Effect, Run, Say, alone, in_words, log
from rha.switch.steps import FailoverHost, Steps
from rha.switch.switchover import plan, release_limit
from rha.units import show_bytes
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost, domain_name

ORDER_SECONDS = 60.0
_ADDRESSES = str(MoveIp.__struct_config__.tag)


class SwitchoverHost(FailoverHost, Protocol):
    """What a switchover needs besides. Everything may be called again after it was done."""

    def why_no_switchover(self) -> str | None:
        """The reason why the master cannot hand over now, as far as the appliance knows; None: it can."""

    def order(self, verb: str, limit: float, **arguments: Any) -> Any:
        """Has the master do something (rha/engine/orders.py). Raises StateError when it is not connected, NetworkError
        with Exit.UNKNOWN when the link ends before the answer, and the master's refusal."""

    def receive_last(self, lsn: int, limit: float) -> None:
        """Waits until the images hold everything below `lsn`, in write order. Raises NetworkError."""

    def hold_images(self) -> None:
        """Nothing more changes the images by itself; the connection stays."""

    def newest_point(self) -> Point | None:
        """What the images show now."""

    def hand_over(self, limit: float) -> None:
        """The master gives its service, and its lease, to this appliance. Raises RhaError when that is not certain."""

    def give_back_lease(self) -> None:
        """Raises NetworkError when etcd does not answer."""

    def wait_gone(self, limit: float) -> None:
        """Waits until the master has hung up. Raises StateError."""

    def receive_again(self) -> None:
        """Opens the images again and applies what has come. Raises StorageError."""


class SwitchoverSteps(Steps):
    """The effects of a switchover's own steps. Addresses are checked once the master has given them up: before that it
    answers for them, as it should."""

    host: SwitchoverHost

    def __init__(
        self,
        host: SwitchoverHost,
        vm: VmHost,
        progress: Progress,
        choose_accelerator: Callable[[str], Accelerator] = choose,
    ) -> None:
        super().__init__(host, vm, progress, choose_accelerator)
        self.effects |= {
            StepName.CHECK_MASTER: Effect(lambda limit: self.host.order("may_release", limit)),
            StepName.CHECK_HOST: Effect(lambda _: self._check_host()),
            StepName.CHECK_REDIRECT: Effect(lambda _: self._check_redirect(but=[_ADDRESSES])),
            StepName.CHECK_CLIENTS: Effect(lambda _: self._check_redirect()),
            StepName.RELEASE: Effect(self._release, self._resume),
            StepName.RECEIVE_LAST: Effect(lambda limit: self.host.receive_last(self._released().lsn, limit)),
            StepName.HOLD_IMAGES: Effect(lambda _: self.host.hold_images()),
            StepName.CLOSE_IMAGES: Effect(self._close_last),
            StepName.HAND_OVER: Effect(self.host.hand_over, self.host.give_back_lease),
            StepName.POWER_OFF: Effect(self._power_off),
        }

    def _released(self) -> Released:
        if self.progress.released is None:
            raise StateError("the master has not said what it has written last")
        return self.progress.released

    def _check_host(self) -> None:
        scenario = self.host.scenario
        name, wanted, free = domain_name(scenario.name), scenario.vm.memory, self.vm.free_memory()
        if (owner := self.vm.owner(name)) not in (None, scenario.name):
            raise StateError(f"domain {name} belongs to scenario {owner}", hint=f"virsh dumpxml {name}")
        if free < wanted:
            raise HostError(
                f"no memory for {name}",
                cause=f"it needs {show_bytes(wanted)}, {show_bytes(free)} are free",
                hint="free; vm.memory in the scenario",
            )

    def _release(self, limit: float) -> None:
        said = self.host.order("release", limit)
        self.progress.released = Released(lsn=said["lsn"], time=said["time"], said=said["said"])

    def _resume(self) -> None:
        """An order to hand over that we gave up waiting for may have been done since: then the lease is ours again."""
        if StepName.HAND_OVER in self.progress.begun:
            self.host.give_back_lease()
        self.host.order("resume", release_limit(self.host.scenario))

    def _close_last(self, limit: float) -> None:
        """Raises StorageError when what the substitute would get is not all."""
        self._close_images(limit)
        point, needed = self.host.newest_point(), self._released().lsn
        if point is None or point.lsn < needed:
            shown = f"LSN {point.lsn}" if point else "no state of the master"
            raise StorageError("the images do not hold the last write", cause=f"they show {shown}, not LSN {needed}")
        self.progress.point = point

    def _power_off(self, limit: float) -> None:
        """The master has handed over: that it does not shut down keeps no client waiting, but is told."""
        try:
            self.host.order("power_off", ORDER_SECONDS)
            self.host.wait_gone(limit)
        except RhaError as error:
            self.progress.steps[-1].sentence += f"; NOT certain: {error.what}: {error.cause}"


def steps_ahead(host: SwitchoverHost, vm: VmHost) -> list[str]:
    """What a switchover would do now, in sentences. Raises StateError as the act would; nothing is changed."""
    return [step.sentence for step in plan(look(host, vm), host.why_no_switchover())]


def run_switchover(
    host: SwitchoverHost,
    vm: VmHost,
    cause: Trigger,
    *,
    say: Say = log.info,
    choose_accelerator: Callable[[str], Accelerator] = choose,
) -> Progress:
    """Switches over, or goes on with a switchover that was cut off or has failed behind its point of no return.

    Returns the progress in state `serving`. Raises StateError, with nothing changed, when the plan or a check refuses;
    else the failed step's error, whose cause says whether the master serves again.
    """
    with alone(host.folder):
        past = ledger.load(host.folder)
        todo = plan(look(host, vm), host.why_no_switchover())
        progress = past or Progress(scenario=host.scenario.name, trigger=cause, kind=SWITCHOVER)
        progress.state, progress.why = RUNNING, ""
        run = Run(host.folder, progress, SwitchoverSteps(host, vm, progress, choose_accelerator).effects, say)
        begun = time.time()
        if past is None:
            run.check_all(todo)
        try:
            run.do_all(todo)
        except Exception as error:
            if not is_image_in_use(progress.begun):
                raise _taken_back(run, host, error, begun) from error
            switches.record(host.folder, progress, begun)
            raise
        ended_well(run, begun)
    return progress


def roll_back(host: SwitchoverHost, vm: VmHost, *, say: Say = log.info) -> None:
    """Takes a switchover back that was cut off, or whose way back was. Raises what an undo raises: it has to be
    repeated then, and the file says what is left; StateError when another switch is at work."""
    with alone(host.folder):
        past = ledger.load(host.folder)
        if past is None or not is_revocable(past):
            return
        run = Run(host.folder, past, SwitchoverSteps(host, vm, past).effects, say)
        why = past.why if past.state != RUNNING else f"the appliance ended during: {past.why}"
        _roll_back(run, host, why, time.time())


def _roll_back(run: Run, host: SwitchoverHost, why: str, begun: float) -> None:
    """First the master, then our own images: whoever waits for the service does not wait for a file."""
    try:
        run.roll_back(why)
    finally:
        if StepName.HOLD_IMAGES in run.progress.begun:
            _receive_again(run, host)
    switches.record(run.folder, run.progress, begun)
    (run.folder / ledger.FILE).unlink(missing_ok=True)


def _receive_again(run: Run, host: SwitchoverHost) -> None:
    """What is wrong with the images is in the appliance's report as well, and tried again there."""
    try:
        host.receive_again()
    except RhaError as error:
        run.say(f"receiving again: {error.what}: {error.cause}")


def _taken_back(run: Run, host: SwitchoverHost, error: Exception, begun: float) -> Exception:
    """What to raise once a step has failed."""
    outcome = "rolled back: the master serves as before"
    try:
        _roll_back(run, host, run.progress.why if run.progress.state == FAILED else in_words(error), begun)
    except RhaError as left:
        outcome = f"NOT rolled back yet, the appliance goes on trying: {left.what}; {left.cause}"
    if not isinstance(error, RhaError):
        return error
    causes = "\n       ".join(filter(None, [error.cause, outcome]))
    return type(error)(error.what, cause=causes, hint=error.hint, code=error.code)
