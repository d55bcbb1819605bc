"""What a switchback has to do: a snapshot of the world in, ordered steps out. Pure.

Invariant: until `hand-over` has begun the master has not been told that it may serve, so every failure ends with the
substitute serving as before. Once it has begun the substitute is never started again: the switchback only goes on. What
the substitute wrote stays in its overlays until the replica holds it (`keep`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rha.errors import RhaError, StateError
from rha.scenario import Scenario
from rha.switch.plan import Step
from rha.sync.fitting import why_not_fitting
from rha.units import show_seconds
from rha.vm.base import DomainState, domain_name


class BackStep(StrEnum):
    TRACK = "track"
    COPY = "copy"
    CATCH_UP = "catch-up"
    REVERT_REDIRECT = "revert-redirect"
    STOP_GUEST = "stop-guest"
    RESTORE_GUEST = "restore-guest"
    LAST_PASS = "last-pass"
    VERIFY = "verify"
    HAND_OVER = "hand-over"
    RELEASE = "release"
    KEEP = "keep"
    REMOVE = "remove"


DAY = 86400.0


@dataclass(frozen=True)
class World:
    """The snapshot. `serving`: a substitute was made, and serves. `domain`: its state now. `sizes`: of its disks, bytes
    by name. `offered`: the same of the receiver's; None: none is connected. `redirected`: clients are led to the
    substitute. `begun`, `ended`: steps of a switchback that was cut off. `verify_all`: in the pause everything is
    compared, not only what was sent last. `parted`: the sentence of what the master wrote alone, or may have; empty: it
    is known that nothing is lost with its disks, or it has not come since. `overwrite`: a person gives that up."""

    scenario: Scenario
    serving: bool
    domain: DomainState
    sizes: Mapping[str, int]
    offered: Mapping[str, int] | None
    redirected: bool
    begun: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    force: bool = False
    verify_all: bool = False
    parted: str = ""
    overwrite: bool = False


def is_past_return(begun: frozenset[str]) -> bool:
    """Was the master told that it may serve?"""
    return BackStep.HAND_OVER in begun


def plan(world: World) -> tuple[Step, ...]:
    """The steps that are left.

    Raises StateError when nothing serves, nobody receives, or an earlier one has to be taken back first; DeviceError
    when the receiver's disks do not fit.
    """
    if is_past_return(world.begun):
        return tuple(step for step in ending(world) if step.name not in world.ended)
    if error := why_not(world):
        raise error
    return (*copy_steps(world), *pause_steps(world), *ending(world))


def why_not(world: World) -> RhaError | None:
    """The reason why no switchback may begin."""
    name = world.scenario.name
    if world.begun:
        return StateError(f"a switchback of {name} is being taken back", hint="rha status")
    if not world.serving:
        return StateError(f"no substitute of {name} serves", cause="there is nothing to bring back", hint="rha status")
    if world.domain != DomainState.RUNNING:
        return StateError(
            f"the substitute of {name} does not run",
            cause=f"domain {domain_name(name)} is {world.domain}",
            hint=f"rha failover {name} starts it again",
        )
    if world.parted and not world.overwrite:
        return StateError(
            f"the master of {name} wrote alone, and a switchback overwrites its disks",
            cause=world.parted,
            hint=f"rha split {name} shows how they are saved first; then rha switchback {name} --overwrite-master",
        )
    if world.offered is None:
        return StateError(
            f"no disks are offered for {name}",
            cause="no receiver is connected",
            hint=f"on the repaired master: rha receive --scenario /etc/rha/{name}.toml",
        )
    return why_not_fitting(world.sizes, world.offered)


def copy_steps(world: World) -> list[Step]:
    """Beside the running guest."""
    disks = ", ".join(world.sizes)
    return [
        Step(BackStep.TRACK, f"track what the substitute writes to {disks}", 60, "end the tracking"),
        Step(BackStep.COPY, "compare the master's disks with the substitute's by hash, send what differs", 30 * DAY),
        Step(BackStep.CATCH_UP, "send what was written meanwhile, until little is left", DAY),
    ]


def pause_steps(world: World) -> list[Step]:
    """From here on nobody serves, until the master does. Clients are led away first: what they are told must be on a
    disk that travels still."""
    limit = float(world.scenario.switch.limit)
    forced = ", then its power is cut (forced)" if world.force else ", else all is taken back"
    what = "everything" if world.verify_all else "what was sent last"
    redirect = Step(BackStep.REVERT_REDIRECT, "lead clients away from the substitute", 300, "redirect clients again")
    return [
        *([redirect] if world.redirected else []),
        Step(
            BackStep.STOP_GUEST,
            f"shut the substitute's guest down, {show_seconds(limit)} at most{forced}",
            limit,
            "start the substitute again",
        ),
        Step(BackStep.RESTORE_GUEST, "write the guest's own settings back", 300, "adapt the guest again"),
        Step(BackStep.LAST_PASS, "send what was written last; the receiver puts it on stable storage", DAY),
        Step(BackStep.VERIFY, f"compare {what} once more, by hash, read back from the master's disks", 30 * DAY),
    ]


def ending(world: World) -> list[Step]:
    """From the word that the master may serve to an appliance that waits for it."""
    lease = [Step(BackStep.RELEASE, "give the lease back", 60)] if world.scenario.lease else []
    return [
        Step(BackStep.HAND_OVER, "tell the receiver that the master may boot, and hear that it knows", 120),
        *lease,
        Step(BackStep.KEEP, "take what the substitute wrote into the replica's journal and images", 30 * DAY),
        Step(BackStep.REMOVE, "remove the substitute: domain and overlays", 120),
    ]
