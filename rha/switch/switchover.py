"""What a switchover has to do: the master hands its service over while it lives. Pure; steps as in plan.py.

Until `power-off` or `start-domain` has begun everything can be taken back, and is, when a step fails or the appliance
dies: the master then serves as before. From then on it only goes forward, as a failover does.

Zero loss: the master says below which LSN everything lies that was written when its applications stood still; the
images that the substitute is made from must have come to that LSN, in write order (`receive-last`, `close-images`).
"""

from __future__ import annotations

from dataclasses import replace

from rha.errors import StateError
from rha.scenario import Scenario
from rha.switch.plan import (
    Step,
    StepName,
    World,
    check_new,
    domain_steps,
    ending,
    image_steps,
    is_image_in_use,
    must_not_serve,
    redirect_check,
)
from rha.switch.progress import SWITCHOVER
from rha.units import show_bytes
from rha.vm.base import domain_name

SETTLE_SECONDS = 1800.0  # caches written out, a disk drained
STOP_RECEIVING = Step(StepName.STOP_RECEIVING, "hang up on the master", 30)


def plan(world: World, why_not: str | None) -> tuple[Step, ...]:
    """The steps that are left. `why_not`: the reason why the master cannot hand over now, or None.

    Raises StateError when it cannot, when another kind of switch has begun or this one is being rolled back, and as
    rha.switch.plan does.
    """
    must_not_serve(world)
    if world.kind:
        _must_go_on(world)
        return (*domain_steps(world), STOP_RECEIVING, *ending(world))
    check_new(world)
    why_not = why_not or _why_not_still(world.scenario)
    if why_not:
        raise StateError(
            f"{world.scenario.name} cannot be switched over now",
            cause=why_not,
            hint=f"rha status; when the master is lost: rha failover {world.scenario.name}",
        )
    return (*_checks(world), *_standing_still(world), *_making(world), *_moving(world), *ending(world))


def _why_not_still(scenario: Scenario) -> str | None:
    if names_stopped(scenario):
        return None
    return "its scenario names nothing that is to be stopped (switch.units, or a [lease]): it would go on writing"


def _must_go_on(world: World) -> None:
    """Raises StateError unless a switchover has passed its point of no return."""
    name = world.scenario.name
    if world.kind != SWITCHOVER:
        raise StateError(f"a {world.kind} of {name} has begun", hint=f"rha {world.kind} {name} goes on with it")
    if not is_image_in_use(world.begun):
        raise StateError(f"a switchover of {name} is being rolled back", hint="rha status --watch")


def _checks(world: World) -> list[Step]:
    memory = show_bytes(world.scenario.vm.memory)
    return [
        Step(StepName.CHECK_MASTER, "ask the master whether it can hand over", 60),
        Step(StepName.CHECK_HOST, f"see that this host can run {domain_name(world.scenario.name)} ({memory})", 30),
        *redirect_check(world),
    ]


def _standing_still(world: World) -> list[Step]:
    scenario = world.scenario
    stopped = ", ".join(names_stopped(scenario))
    return [
        Step(
            StepName.RELEASE,
            f"the master stops {stopped} and writes out what it holds",
            release_limit(scenario),
            undo="the master starts again what it has stopped",
        ),
        Step(StepName.RECEIVE_LAST, "receive and apply its last write", 1800),
        Step(StepName.HOLD_IMAGES, "hold the images as they are; the link stays", 60),
    ]


def names_stopped(scenario: Scenario) -> list[str]:
    """What the master stops, in its order."""
    lease = scenario.lease
    units = dict.fromkeys([*scenario.switch.units, *reversed(lease.units if lease else [])])
    return [*units, *(lease.addresses if lease else [])]


def release_limit(scenario: Scenario) -> float:
    """Seconds that the master may take to stand still: each unit once to stop, and once to start when one does not."""
    return 2 * scenario.switch.limit * max(1, len(names_stopped(scenario))) + SETTLE_SECONDS


def _making(world: World) -> list[Step]:
    """Everything that the substitute needs, while the master can still take its service back."""
    undo = {StepName.MAKE_OVERLAY: "remove the overlays", StepName.DEFINE_DOMAIN: "undefine the domain"}
    steps = [*image_steps(world), *domain_steps(world)]
    left_out = (StepName.APPLY_SPOOL, StepName.START_DOMAIN)
    return [replace(step, undo=undo.get(StepName(step.name), "")) for step in steps if step.name not in left_out]


def _moving(world: World) -> list[Step]:
    scenario = world.scenario
    lease = ", and its lease with it" if scenario.lease else ""
    undo = "give the lease back" if scenario.lease else ""
    known = ", and gives up what clients know it by" if scenario.redirect else ""
    limit = 60 + 2 * sum(table.limit for table in scenario.redirect)
    steps = [Step(StepName.HAND_OVER, f"the master hands its service over{lease}{known}", limit, undo=undo)]
    if scenario.redirect:
        checked = "see that nothing of the master is in the clients' way any more"
        steps.append(Step(StepName.CHECK_CLIENTS, checked, limit))
    if scenario.switch.after == "poweroff":
        steps.append(Step(StepName.POWER_OFF, "the master shuts down", 120))
    start = [step for step in domain_steps(world) if step.name == StepName.START_DOMAIN]
    return [*steps, *start, STOP_RECEIVING]
