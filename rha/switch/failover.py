"""Runs a failover: plans, does each step, keeps its progress on disk. Started again after `kill -9`, it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rha.errors import StateError
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.report import Point
from rha.switch import progress as ledger
from rha.switch import switches
from rha.switch.plan import CHECKS, Step, StepName, World, is_image_in_use, plan
from rha.switch.progress import RUNNING, SERVING, Progress, Trigger
from rha.switch.runner import Run, Say, alone, log
from rha.switch.steps import FailoverHost, Steps, remove_overlays
from rha.units import show_seconds
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost, domain_name


def look(host: FailoverHost, vm: VmHost, *, force: bool = False, wanted: Point | None = None) -> World:
    """The snapshot that `plan` wants. Once a substitute was started the images are not asked for anything."""
    past = ledger.load(host.folder)
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
        past = ledger.load(host.folder)
        todo = plan(look(host, vm, force=force, wanted=wanted))
        progress = past or Progress(scenario=host.scenario.name, trigger=cause)
        progress.wanted = wanted or progress.wanted
        progress.state, progress.why, progress.forced = RUNNING, "", force or progress.forced
        run = Run(host.folder, progress, Steps(host, vm, progress, choose_accelerator).effects, say)
        do_all(run, todo, checked=past is None)
    return progress


def do_all(run: Run, todo: Sequence[Step], *, checked: bool) -> None:
    """Does the steps up to `serving`. `checked`: the checks among them are done first; when one refuses, no switch has
    begun, and the master may connect as before. Raises what a step raises."""
    begun = time.time()
    for step in todo if checked else ():
        if step.name in CHECKS:
            run.check(step)
    try:
        for step in todo:
            if step.name not in CHECKS:
                run.do(step)
    except Exception:
        if run.progress.begun == {StepName.FENCE}:  # the master may serve still: nothing has begun, it may connect
            (run.folder / ledger.FILE).unlink()
            raise
        switches.record(run.folder, run.progress, begun)
        raise
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
    return ", ".join([f"domain {progress.domain} ({progress.accelerator}: {progress.accelerator_why})", *known])


def discard_substitute(
    folder: Path,
    vm: VmHost,
    scenario: str,
    *,
    release: Callable[[], object] = lambda: None,
    say: Say = log.info,
) -> None:
    """Ends a failover for good: the VM's power is cut, domain, overlays and all that the substitute has written are
    removed. The images below are as they were; the appliance may open them and receive again.

    Clients are led back first; when that fails, nothing is removed. `release` lets the master serve again, once the
    substitute is gone; when it fails, this has to be repeated.

    Raises StateError when the domain of that name is not the scenario's, or a failover is at work; RhaError when a
    redirection cannot be reverted. May be repeated.
    """
    with alone(folder):
        remove_substitute(folder, vm, scenario, release=release, say=say)


def remove_substitute(
    folder: Path, vm: VmHost, scenario: str, *, release: Callable[[], object] = lambda: None, say: Say = log.info
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
