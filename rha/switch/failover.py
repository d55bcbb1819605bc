"""Runs a failover: plans, does each step, keeps its progress on disk. Started again after `kill -9`, it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rha.errors import StateError, VmError
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.report import Point
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.plan import Step, StepName, World, is_image_in_use, plan
from rha.switch.progress import FAILED, RUNNING, SERVING, SWITCHOVER, Attempt, Progress, Trigger
from rha.switch.runner import Run, Say, alone, in_words, log
from rha.switch.steps import FailoverHost, Steps, remove_overlays
from rha.units import show_seconds
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost, domain_name

BACK_SECONDS = (300.0, 1800.0, 10800.0, 86400.0)  # from the point that does not boot to the next one to be tried


def look(host: FailoverHost, vm: VmHost, *, force: bool = False, wanted: Point | None = None) -> World:
    """The snapshot that `plan` wants. Once a substitute was started the images are not asked for anything."""
    past = _standing(host.folder)
    wanted = wanted or (past.wanted if past else None)
    begun = past.begun if past else frozenset()
    return World(
        scenario=host.scenario,
        why_inconsistent=None if is_image_in_use(begun) else host.why_not_consistent(),
        force=force or bool(past and past.forced),
        begun=begun,
        serving=bool(past and past.state == SERVING),
        domain=vm.state(domain_name(host.scenario.name)),
        at=show_point(wanted),
        kind=past.kind if past else "",
    )


def show_point(point: Point | None) -> str:
    """`LSN 4096 (2026-11-24 08:00:00)`; empty for None."""
    return f"LSN {point.lsn} ({time.strftime('%F %T', time.localtime(point.time))})" if point else ""


def steps_ahead(host: FailoverHost, vm: VmHost, *, force: bool = False, wanted: Point | None = None) -> list[str]:
    """What a failover would do now, in sentences; nothing is changed. Raises StateError as the act would."""
    return [step.sentence for step in plan(look(host, vm, force=force, wanted=wanted))]


def run_failover(
    host: FailoverHost,
    vm: VmHost,
    cause: Trigger,
    *,
    force: bool = False,
    wanted: Point | None = None,
    say: Say = log.info,
    choose_accelerator: Callable[[str], Accelerator] = choose,
) -> Progress:
    """Fails over, or goes on with a switch that was cut off or has failed; its first `cause` then stays. `wanted`: to
    this point instead of the newest.

    Returns the progress in state `serving`. A failed step raises its RhaError after `failed` was recorded. Raises
    StateError, with nothing changed, when the plan refuses or another switch of the scenario is at work.
    """
    with alone(host.folder):
        past = _standing(host.folder)
        _must_be_open(past, wanted)
        todo = plan(look(host, vm, force=force, wanted=wanted))
        _give_up_switchover(host.folder, past)
        progress = past or Progress(scenario=host.scenario.name, trigger=cause)
        progress.wanted = wanted or progress.wanted
        progress.state, progress.why, progress.forced = RUNNING, "", force or progress.forced
        run = Run(host.folder, progress, Steps(host, vm, progress, choose_accelerator).effects, say)
        is_checked = past is None
        while True:
            try:
                do_all(run, todo, checked=is_checked)
                return progress
            except VmError as error:
                if not _goes_back(run, host, vm, error):
                    raise
            todo, is_checked = plan(look(host, vm, force=progress.forced)), False


def _goes_back(run: Run, host: FailoverHost, vm: VmHost, error: VmError) -> bool:
    """The substitute did not come to serve, and nobody was led to it: an earlier point is to be tried. False: none may
    be, or there is none.

    What the guest has written is given up with its overlays. A point that a person has asked for is not replaced.
    """
    progress = run.progress
    is_ours = bool(progress.tried) or progress.wanted is None
    left = host.scenario.vm.candidates - len(progress.tried)
    if (
        not progress.steps
        or progress.steps[-1].name != StepName.WAIT_READY
        or not is_ours
        or left <= 0
        or progress.point is None
    ):
        return False
    found = host.earlier_point(progress.point, BACK_SECONDS[min(len(progress.tried), len(BACK_SECONDS) - 1)])
    if found is None:
        run.say(f"no point before {show_point(progress.point)} can be tried")
        return False
    vm.destroy(progress.domain)
    why = f"{show_point(progress.point)} does not boot to a service"
    progress.tried = [*progress.tried, Attempt(point=progress.point, why=in_words(error))]
    progress.wanted, progress.steps, progress.state, progress.why = found, [], RUNNING, ""
    run.store()
    run.say(f"{why}: trying an EARLIER point, {show_point(found)}; {left - 1} more may be tried")
    return True


def is_revocable(past: Progress) -> bool:
    """Has a switchover begun that can, and so must, be taken back?"""
    return past.kind == SWITCHOVER and not is_image_in_use(past.begun)


def _standing(folder: Path) -> Progress | None:
    """The switch to go on with. A switchover that was to be taken back is none: its master is lost."""
    past = ledger.load(folder)
    return None if past is None or is_revocable(past) else past


def _give_up_switchover(folder: Path, past: Progress | None) -> None:
    """A failover begins in the place of a switchover that could not be taken back. Raises StorageError."""
    if past is None and (given_up := ledger.load(folder)) is not None:
        given_up.state, given_up.why = FAILED, f"the master was lost, a failover began; {given_up.why}"
        switches.record(folder, given_up, given_up.trigger.decided)


def _must_be_open(past: Progress | None, wanted: Point | None) -> None:
    """Raises StateError when a point is asked for and a substitute was started from another one."""
    if past and wanted and is_image_in_use(past.begun) and wanted != past.wanted:
        raise StateError(
            f"the substitute of {past.scenario} was started already",
            cause=f"from {show_point(past.point) or 'the images as they were'}; it may have written since",
            hint=f"rha discard {past.scenario} removes it with all that it wrote",
        )


def do_all(run: Run, todo: Sequence[Step], *, checked: bool) -> None:
    """Does the steps up to `serving`. `checked`: the checks among them are done first; when one refuses, no switch has
    begun, and the master may connect as before. Raises what a step raises."""
    begun = time.time()
    if checked:
        run.check_all(todo)
    try:
        run.do_all(todo)
    except Exception:
        # The master may serve still: nothing has begun, it may connect.
        if run.progress.begun == {StepName.FENCE} and not run.progress.tried:
            (run.folder / ledger.FILE).unlink()
            raise
        switches.record(run.folder, run.progress, begun)
        raise
    ended_well(run, begun)


def ended_well(run: Run, begun: float) -> None:
    """A substitute serves. `begun`: of this attempt. Raises StorageError."""
    run.progress.state, run.progress.why = SERVING, outcome(run.progress)
    run.store()
    switches.record(run.folder, run.progress, begun)
    run.say(run.progress.sentence())


def outcome(progress: Progress) -> str:
    """The last sentence: domain, accelerator, RPO, RTO."""
    known = [
        f"{name} {show_seconds(seconds)}"
        for name, seconds in (
            ("RPO", progress.rpo_seconds),
            ("RTO", progress.rto_seconds),
            ("detected in", progress.detect_seconds),
            ("boot", progress.boot_seconds),
        )
        if seconds is not None
    ]
    if progress.tried:
        known.append(f"from {show_point(progress.point)}: {len(progress.tried)} newer did NOT boot")
    return ", ".join([f"domain {progress.domain} ({progress.accelerator}: {progress.accelerator_why})", *known])


def discard_substitute(
    folder: Path,
    vm: VmHost,
    scenario: str,
    *,
    keep: Callable[[Progress], object] = lambda _: None,
    release: Callable[[], object] = lambda: None,
    say: Say = log.info,
) -> None:
    """Ends a failover for good: the VM's power is cut, domain, overlays and all that the substitute has written are
    removed. The images below are as they were; the appliance may open them and receive again.

    Clients are led back first; when that fails, nothing is removed. `keep` may take the overlays aside, once the
    substitute is off; when it fails, they stay. `release` lets the master serve again, once the substitute is gone.
    When either fails, this has to be repeated.

    Raises StateError when the domain of that name is not the scenario's, or a failover is at work; RhaError when a
    redirection cannot be reverted. May be repeated.
    """
    with alone(folder):
        remove_substitute(folder, vm, scenario, keep=keep, release=release, say=say)


def remove_substitute(
    folder: Path,
    vm: VmHost,
    scenario: str,
    *,
    keep: Callable[[Progress], object] = lambda _: None,
    release: Callable[[], object] = lambda: None,
    say: Say = log.info,
) -> None:
    """As `discard_substitute`, for a switch that is at work itself."""
    name = domain_name(scenario)
    owner = vm.owner(name)
    if owner not in (None, scenario):
        raise StateError(f"domain {name} belongs to scenario {owner}", hint=f"virsh dumpxml {name}")
    redirect.revert(replica_place(scenario, folder), say)
    if owner is not None:
        say(f"destroy and undefine domain {name}")
        vm.destroy(name)
        vm.undefine(name)
    past = ledger.load(folder)
    if past:
        keep(past)
        remove_overlays(folder, past)
    release()
    (folder / ledger.FILE).unlink(missing_ok=True)
    say(f"{scenario}: substitute discarded")


def are_images_taken(folder: Path) -> bool:
    """Must the appliance leave this scenario's images closed, because a substitute was started on them?

    Raises StorageError when that cannot be known.
    """
    past = ledger.load(folder)
    return past is not None and is_image_in_use(past.begun)
