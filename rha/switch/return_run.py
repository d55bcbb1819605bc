"""Runs a switchback: plans, does each step, keeps its progress on disk. After `kill -9` it goes on, or takes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rha.errors import RhaError, StateError
from rha.image import formats
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.switch import progress as ledger
from rha.switch import returned, switches
from rha.switch.plan import Step
from rha.switch.progress import ROLLING_BACK, RUNNING, SERVING, Progress, Trigger
from rha.switch.returned import DONE, Returned
from rha.switch.returning import Back, ReturnHost
from rha.switch.runner import Run, Say, alone, log
from rha.switch.switchback import BackStep, World, is_past_return, plan
from rha.units import show_bytes, show_seconds
from rha.vm.base import VmHost, domain_name


class _Run(Run):
    """Keeps its progress in a file of its own."""

    def store(self) -> None:
        assert isinstance(self.progress, Returned)
        returned.store(self.folder, self.progress)


def look(
    host: ReturnHost, vm: VmHost, *, force: bool = False, verify_all: bool = False, overwrite: bool = False
) -> World:
    """The snapshot that `plan` wants. Raises StorageError, VmError."""
    past, own = ledger.load(host.folder), returned.load(host.folder)
    receiver = host.receiver()
    return World(
        scenario=host.scenario,
        serving=bool(past and past.state == SERVING),
        domain=vm.state(domain_name(host.scenario.name)),
        sizes=_sizes(past),
        offered=receiver.sizes if receiver else None,
        redirected=redirect.standing(replica_place(host.scenario.name, host.folder)) is not None,
        begun=own.begun if own else frozenset(),
        ended=own.ended if own else frozenset(),
        force=force,
        verify_all=verify_all,
        parted=host.why_not_overwrite(),
        overwrite=overwrite,
    )


def _sizes(past: Progress | None) -> dict[str, int]:
    """Of the overlays that are there: a crash may have come between their removal and the note of it."""
    overlays = {image.name: Path(image.overlay) for image in past.images} if past else {}
    return {name: formats.info(path).virtual_size for name, path in overlays.items() if path.exists()}


def run_switchback(
    host: ReturnHost,
    vm: VmHost,
    cause: Trigger,
    *,
    force: bool = False,
    verify_all: bool = False,
    overwrite: bool = False,
    say: Say = log.info,
    watch: Callable[[Back], None] = lambda _: None,
) -> Returned:
    """Brings the substitute's disks home and gives the service back. `watch` gets what does it, for reports.

    Returns the progress in state `done`. What fails before the hand-over is taken back and raised; from then on the
    state stays, with its name, and `go_on` goes on. `overwrite`: what the master wrote alone is given up.

    Raises StateError, DeviceError when the plan refuses.
    """
    with alone(host.folder):
        todo = plan(look(host, vm, force=force, verify_all=verify_all, overwrite=overwrite))
        past = ledger.load(host.folder)
        assert past is not None
        progress = returned.load(host.folder) or Returned(
            scenario=host.scenario.name, trigger=cause, verify_all=verify_all, domain=past.domain, images=past.images
        )
        back = Back(host, vm, progress, past, force=force, say=say)
        watch(back)
        _do_all(_Run(host.folder, progress, back.effects, say), todo, back)
    return progress


def _do_all(run: _Run, todo: Sequence[Step], back: Back, *, again: bool = False) -> None:
    """`again`: a step that failed is tried once more, and its failure is known already."""
    begun, progress = time.time(), back.progress
    if again:
        names = {step.name for step in todo}
        progress.steps = [record for record in progress.steps if record.name not in names]
    try:
        progress.state, progress.why = RUNNING, ""
        for step in todo:
            run.do(step)
    except Exception as error:
        back.close()
        if not is_past_return(progress.begun):
            why = error.what if isinstance(error, RhaError) else repr(error)
            _take_back(run, f"{progress.steps[-1].name}: {why}" if progress.steps else why, begun)
        elif not again:
            switches.record(run.folder, progress, begun)
        raise
    finally:
        back.close()
    progress.state, progress.why = DONE, outcome(progress)
    switches.record(run.folder, progress, begun)
    (run.folder / returned.FILE).unlink(missing_ok=True)
    run.say(progress.sentence())


def _take_back(run: _Run, why: str, begun: float) -> None:
    """The substitute serves as before. Raises what cannot be taken back; it is tried again then."""
    run.roll_back(why)
    switches.record(run.folder, run.progress, begun)
    (run.folder / returned.FILE).unlink(missing_ok=True)


def go_on(host: ReturnHost, vm: VmHost, say: Say = log.info) -> bool:
    """After a crash, or a failure past return: goes on, or takes back. False when there is nothing to do.

    Raises what fails; may be called again.
    """
    if returned.load(host.folder) is None:
        return False
    with alone(host.folder):
        progress, past = returned.load(host.folder), ledger.load(host.folder)
        if progress is None:
            return False
        if past is None:  # the last step had removed the substitute
            past = Progress(scenario=progress.scenario, trigger=progress.trigger, images=progress.images)
            past.domain = progress.domain
        back = Back(host, vm, progress, past, say=say)
        run = _Run(host.folder, progress, back.effects, say)
        if is_past_return(progress.begun):
            _do_all(run, plan(look(host, vm)), back, again=True)
        else:
            _take_back(run, _why_back(progress), time.time())
    return True


def _why_back(progress: Returned) -> str:
    """The first reason; what an undo that failed has added to it is left out."""
    if progress.state == ROLLING_BACK:
        return progress.why.split("; to ")[0]
    return "the appliance was stopped in the middle"


def take_back_by_hand(host: ReturnHost, vm: VmHost, person: str, say: Say = log.info) -> Returned:
    """A person answers for it that the master does not serve, and will not: the substitute serves again, though the
    hand-over has begun. Raises StateError when the master has acknowledged, or nothing stands."""
    with alone(host.folder):
        progress, past = returned.load(host.folder), ledger.load(host.folder)
        if progress is None or past is None:
            raise StateError(f"no switchback of {host.scenario.name} stands", hint="rha status")
        if BackStep.HAND_OVER in progress.ended:
            raise StateError(
                f"the master of {host.scenario.name} knows that it may boot",
                cause="two that serve at once make data that nobody can join again",
                hint=f"when it has not: rha failover {host.scenario.name}, once the replica has taken everything in",
            )
        back = Back(host, vm, progress, past, say=say)
        _take_back(_Run(host.folder, progress, back.effects, say), f"broken off by {person}", time.time())
    return progress


def outcome(progress: Returned) -> str:
    """The last sentence."""
    pause = "" if progress.pause_seconds is None else f"; nobody served for {show_seconds(progress.pause_seconds)}"
    what = "everything" if progress.verify_all else "what was sent last"
    return (
        f"compared {show_bytes(progress.compared_bytes)}, sent {show_bytes(progress.sent_bytes)} in "
        f"{len(progress.passes)} passes, each reading back what was sent before it; in the pause {what} "
        f"({show_bytes(progress.verified_bytes)}) was read back from the master's disks and is equal{pause}; "
        f"the replica has taken in {show_bytes(progress.kept_bytes)}"
    )
