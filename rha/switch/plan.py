"""What a failover has to do: a snapshot of the world in, ordered steps out. Pure. Other kinds of acts have plan
files of their own, made of the same steps where they do the same.

Invariant: once `start-domain` has begun, the guest may have written to the overlays. From then on no plan applies
anything to the images below them or makes them anew: that would take acknowledged work from the substitute's clients.
Before that moment every step may be done again from the beginning. The same holds once the master was told to power
off: it cannot take its service back any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rha.errors import StateError
from rha.fence import taking
from rha.scenario import Scenario
from rha.vm.base import DomainState, domain_name
from rha.vm.guest import wanted


class StepName(StrEnum):
    CHECK_MASTER = "check-master"
    CHECK_HOST = "check-host"
    CHECK_REDIRECT = "check-redirect"
    FENCE = "fence"
    RELEASE = "release"
    RECEIVE_LAST = "receive-last"
    HOLD_IMAGES = "hold-images"
    STOP_RECEIVING = "stop-receiving"
    APPLY_SPOOL = "apply-spool"
    CLOSE_IMAGES = "close-images"
    MAKE_OVERLAY = "make-overlay"
    ADAPT_GUEST = "adapt-guest"
    DEFINE_DOMAIN = "define-domain"
    HAND_OVER = "hand-over"
    CHECK_CLIENTS = "check-clients"
    POWER_OFF = "power-off"
    START_DOMAIN = "start-domain"
    WAIT_READY = "wait-ready"
    REDIRECT = "redirect"
    RECORD = "record"


@dataclass(frozen=True)
class Step:
    """`name`: a StepName, or of a kind of act with steps of its own. `limit`: seconds after which the step counts as
    failed. `undo`: the sentence of what takes it back; empty when nothing has to be."""

    name: str
    sentence: str
    limit: float
    undo: str = ""


CHECKS = frozenset({StepName.CHECK_MASTER, StepName.CHECK_HOST, StepName.CHECK_REDIRECT})  # change nothing
NO_RETURN = frozenset({StepName.POWER_OFF, StepName.START_DOMAIN})


@dataclass(frozen=True)
class World:
    """The snapshot. `why_inconsistent`: None iff the images show a state of the master. `begun`: steps that an earlier
    run has begun; empty for a new failover. `serving`: an earlier run has ended well. `domain`: the substitute's state
    now. `at`: the point that was asked for, in words; empty: the newest. `kind`: what has begun (progress.py); empty:
    nothing.
    """

    scenario: Scenario
    why_inconsistent: str | None
    force: bool
    begun: frozenset[str]
    serving: bool
    domain: DomainState
    at: str = ""
    kind: str = ""


def is_image_in_use(begun: frozenset[str]) -> bool:
    """Must the images below the overlays stay as they are, closed to everybody but the substitute?"""
    return bool(NO_RETURN & begun)


def plan(world: World) -> tuple[Step, ...]:
    """The steps that are left.

    Raises StateError when a substitute serves already, when a domain runs that no failover has started, and when the
    images are not consistent and nobody forces.
    """
    must_not_serve(world)
    if is_image_in_use(world.begun):
        return (*domain_steps(world), *ending(world))
    check_new(world)
    return (
        *redirect_check(world),
        *fence_steps(world),
        Step(StepName.STOP_RECEIVING, "stop receiving from the master", 30),
        *image_steps(world),
        *domain_steps(world),
        *ending(world),
    )


def must_not_serve(world: World) -> None:
    """Raises StateError when a substitute serves already."""
    if world.serving and world.domain in (DomainState.RUNNING, DomainState.PAUSED):
        raise StateError(
            f"the substitute VM of {world.scenario.name} serves already",
            cause=f"domain {domain_name(world.scenario.name)} is {world.domain}",
            hint="rha status",
        )


def redirect_check(world: World) -> list[Step]:
    """Before anything is changed: an address that the master still answers for, a DNS server that refuses."""
    tables = world.scenario.redirect
    if not tables or world.force:
        return []
    return [Step(StepName.CHECK_REDIRECT, f"see that clients can be redirected ({_types(world)})", _longest(world))]


def fence_steps(world: World) -> list[Step]:
    """Before anything else is done: a master that was held for dead must not serve beside its substitute."""
    if taking.why_not_possible(world.scenario):
        return []
    forced = " (forced: goes on if that fails)" if world.force else ""
    return [Step(StepName.FENCE, taking.describe(world.scenario) + forced, taking.limit_of(world.scenario))]


def _redirect(world: World) -> list[Step]:
    if not world.scenario.redirect:
        return []
    return [Step(StepName.REDIRECT, f"redirect clients to the substitute ({_types(world)})", 3 * _longest(world))]


def _types(world: World) -> str:
    return ", ".join(str(table.__struct_config__.tag) for table in world.scenario.redirect)


def _longest(world: World) -> float:
    return sum(table.limit for table in world.scenario.redirect)


def check_new(world: World) -> None:
    """Raises StateError when nothing may be begun."""
    name = world.scenario.name
    if world.domain in (DomainState.RUNNING, DomainState.PAUSED):
        raise StateError(
            f"domain {domain_name(name)} is {world.domain}, and no failover has started it",
            hint=f"virsh destroy {domain_name(name)}, then rha failover {name}",
        )
    if world.why_inconsistent and not world.force and not world.at:
        raise StateError(
            f"{name} has no consistent point to fail over to",
            cause=world.why_inconsistent,
            hint=f"rha failover {name} --force boots the images as they are; file systems may be damaged",
        )


def image_steps(world: World) -> list[Step]:
    """From what is spooled to overlays that a guest may write to."""
    disks = ", ".join(disk.name for disk in world.scenario.disk)
    forced = f" (forced: {world.why_inconsistent})" if world.why_inconsistent and not world.at else ""
    shown = f", shown as they were at {world.at}" if world.at else ""
    adapt = wanted.sentence(world.scenario)
    return [
        Step(StepName.APPLY_SPOOL, f"apply what is spooled{forced}", 3600),
        Step(StepName.CLOSE_IMAGES, f"write a checkpoint and close the images of {disks}{shown}", 120),
        Step(StepName.MAKE_OVERLAY, f"put a qcow2 overlay on {disks}; the replica itself stays as it is", 60),
        *([Step(StepName.ADAPT_GUEST, adapt, world.scenario.vm.guest.limit)] if adapt else []),
    ]


def domain_steps(world: World) -> list[Step]:
    """A domain that runs was started by an earlier run; one that is off, or lost with its host, is made and started."""
    if world.domain == DomainState.RUNNING:
        return []
    name = domain_name(world.scenario.name)
    again = " again, on the overlays it had" if is_image_in_use(world.begun) else ""
    steps = [
        Step(StepName.DEFINE_DOMAIN, f"choose firmware, bus and accelerator; define domain {name}", 120),
        Step(StepName.START_DOMAIN, f"start domain {name}{again}", 60),
    ]
    return steps if world.domain != DomainState.PAUSED else steps[1:]


def ending(world: World) -> list[Step]:
    """From a domain that runs to clients that are there."""
    ready = world.scenario.vm.ready
    wait = (
        f"wait until {ready.kind} {ready.address} answers"
        if ready
        else "no vm.ready check in the scenario: only see that the domain runs"
    )
    limit = world.scenario.vm.ready_timeout if ready else 30.0
    return [
        Step(StepName.WAIT_READY, wait, limit),
        *_redirect(world),
        Step(StepName.RECORD, "record RPO and RTO", 10),
    ]
