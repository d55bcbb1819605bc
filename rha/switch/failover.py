"""Runs a failover: plans, does each step, keeps its progress on disk. Started again after `kill -9`, it goes on."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rha.errors import RhaError, StateError
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.switch import progress as ledger
from rha.switch.plan import Step, StepName, World, is_image_in_use, plan
from rha.switch.progress import FAILED, RUNNING, SERVING, Progress, StepRecord, Trigger
from rha.switch.steps import OVERLAYS, FailoverHost, Steps
from rha.units import show_seconds
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost, domain_name

Say = Callable[[str], None]
_LOCK = "failover.lock"
_log = logging.getLogger(__name__)


def look(host: FailoverHost, vm: VmHost, *, force: bool = False) -> World:
    """The snapshot that `plan` wants. Once a substitute was started the images are not asked for anything."""
    past = ledger.load(host.folder)
    begun = past.begun if past else frozenset()
    return World(
        scenario=host.scenario,
        why_inconsistent=None if is_image_in_use(begun) else host.why_not_consistent(),
        force=force or bool(past and past.forced),
        begun=begun,
        serving=bool(past and past.state == SERVING),
        domain=vm.state(domain_name(host.scenario.name)),
    )


def steps_ahead(host: FailoverHost, vm: VmHost, *, force: bool = False) -> list[str]:
    """What a failover would do now, in sentences; nothing is changed. Raises StateError as the act would."""
    return [step.sentence for step in plan(look(host, vm, force=force))]


def run_failover(
    host: FailoverHost,
    vm: VmHost,
    cause: Trigger,
    *,
    force: bool = False,
    say: Say = _log.info,
    choose_accelerator: Callable[[str], Accelerator] = choose,
) -> Progress:
    """Fails over, or goes on with a failover that was cut off or has failed; its first `cause` then stays.

    Returns the progress in state `serving`. A failed step raises its RhaError after `failed` was recorded. Raises
    StateError, with nothing changed, when the plan refuses or another failover of the scenario is at work.
    """
    with _alone(host.folder):
        todo = plan(look(host, vm, force=force))
        past = ledger.load(host.folder)
        progress = past or Progress(scenario=host.scenario.name, trigger=cause)
        progress.state, progress.why, progress.forced = RUNNING, "", force or progress.forced
        effects = Steps(host, vm, progress, choose_accelerator)
        if past is None:
            todo = _checked(todo, effects, say)
        for step in todo:
            _do(step, effects, say)
        progress.state, progress.why = SERVING, outcome(progress)
        ledger.store(host.folder, progress)
    say(progress.sentence())
    return progress


def _checked(todo: tuple[Step, ...], effects: Steps, say: Say) -> tuple[Step, ...]:
    """What is left after the check of the redirections. It is not recorded: when it refuses, no failover has begun, and
    the master may connect as before."""
    first, *rest = todo
    if first.name is not StepName.CHECK_REDIRECT:
        return todo
    say(f"{first.name}: {first.sentence}")
    effects.do(first)
    return tuple(rest)


def _do(step: Step, effects: Steps, say: Say) -> None:
    progress, folder = effects.progress, effects.host.folder
    record = StepRecord(name=step.name, sentence=step.sentence, begun=time.time())
    progress.steps = [*progress.steps, record]
    progress.why = step.sentence
    ledger.store(folder, progress)
    say(f"{step.name}: {step.sentence}")
    begun = time.monotonic()
    try:
        effects.do(step)
    except Exception as error:
        what = error.what if isinstance(error, RhaError) else f"bug: {error!r}"
        record.seconds, record.failure = time.monotonic() - begun, what
        progress.state, progress.why = FAILED, f"{step.name}: {what}"
        ledger.store(folder, progress)
        say(progress.sentence())
        raise
    record.seconds = time.monotonic() - begun
    ledger.store(folder, progress)


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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One failover of a scenario at a time, over all processes; the kernel lets go when a process dies."""
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"a failover is at work in {folder}", hint="rha status --watch") from error
        yield


def discard_substitute(folder: Path, vm: VmHost, scenario: str, *, say: Say = _log.info) -> None:
    """Ends a failover for good: the VM's power is cut, domain, overlays and all that the substitute has written are
    removed. The images below are as they were; the appliance may open them and receive again.

    Clients are led back first; when that fails, nothing is removed.

    Raises StateError when the domain of that name is not the scenario's, or a failover is at work; RhaError when a
    redirection cannot be reverted. May be repeated.
    """
    name = domain_name(scenario)
    with _alone(folder):
        owner = vm.owner(name)
        if owner not in (None, scenario):
            raise StateError(f"domain {name} belongs to scenario {owner}", hint=f"virsh dumpxml {name}")
        redirect.revert(replica_place(scenario, folder), say)
        if owner is not None:
            say(f"destroy and undefine domain {name}")
            vm.destroy(name)
            vm.undefine(name)
        past = ledger.load(folder)
        for image in past.images if past else []:
            Path(image.overlay).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (folder / OVERLAYS).rmdir()
        (folder / ledger.FILE).unlink(missing_ok=True)
    say(f"{scenario}: substitute discarded")


def are_images_taken(folder: Path) -> bool:
    """Must the appliance leave this scenario's images closed, because a substitute was started on them?

    Raises StorageError when that cannot be known.
    """
    past = ledger.load(folder)
    return past is not None and StepName.START_DOMAIN in past.begun
