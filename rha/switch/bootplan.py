"""What a test boot has to do, what it asks the guest, and when it is due. Pure: the effects are in testboot.py.

A test only ever adds: overlays of a point, a domain of its own name on a network of its own. So every step is taken
back at the end, whatever the outcome was, and nothing that it does can be in a failover's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from rha import schedule
from rha.errors import StateError, VmError
from rha.scenario import BootCheck, BootTest, Check, Duration, Network, Scenario
from rha.switch.plan import Step
from rha.units import show_bytes, show_seconds
from rha.vm.base import DomainState
from rha.vm.guest import wanted
from rha.watch import tcp
from rha.watch.base import NoAnswer

HOST_BYTES = 256 << 20  # that a host keeps when a test has begun: QEMU's own memory, and air for the storage daemons
SETTLE_SECONDS = 60.0  # that a guest which nobody asks anything has before its picture is taken
NEWEST = "now"
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "mysql": 3306}


class BootStep(StrEnum):
    OPEN_POINT = "open-point"
    ADAPT_GUEST = "adapt-guest"
    DEFINE_DOMAIN = "define-domain"
    START_DOMAIN = "start-domain"
    WAIT_READY = "wait-ready"
    CHECK = "check"
    SETTLE = "settle"


@dataclass(frozen=True)
class Scene:
    """The snapshot. `at`: the point in words; `domain`: the test's own; `why_switched`: a substitute stands or is being
    made, as a sentence; None: the replica is its own. `free_memory` in bytes."""

    scenario: Scenario
    at: str
    domain: DomainState
    why_switched: str | None
    free_memory: int


def domain_of_test(scenario: str) -> str:
    """The domain of a scenario's tests. No scenario can be called so that its substitute had this name: there is no dot
    in their names."""
    return f"rha-{scenario}.test"


def tested(scenario: Scenario) -> Scenario:
    """The scenario as its test runs: the guest is fitted to the network card that it has there."""
    network = Network(kind="user", mac=scenario.vm.network.mac)
    return msgspec.structs.replace(scenario, vm=msgspec.structs.replace(scenario.vm, network=network))


def address_of(scenario: Scenario) -> str:
    """The guest's fixed IPv4 address with its prefix length; empty: it asks by DHCP."""
    return scenario.test.address or next((one for one in scenario.vm.guest.addresses if ":" not in one), "")


def memory_of(scenario: Scenario) -> int:
    return int(scenario.vm.memory if scenario.test.memory is None else scenario.test.memory)


def cpus_of(scenario: Scenario) -> int:
    return scenario.vm.cpus if scenario.test.cpus is None else scenario.test.cpus


def plan(scene: Scene) -> tuple[Step, ...]:
    """The steps of a test. Raises StateError while a substitute stands or another test's domain is there, VmError when
    the host has no memory for it; nothing has been opened then."""
    refuse(scene)
    name = domain_of_test(scene.scenario.name)
    disks = ", ".join(disk.name for disk in scene.scenario.disk)
    shown = "the newest point" if scene.at == NEWEST else f"the point {scene.at}"
    size = f"{show_bytes(memory_of(scene.scenario))}, {cpus_of(scene.scenario)} CPU"
    adapt = wanted.sentence(tested(scene.scenario))
    return (
        Step(
            BootStep.OPEN_POINT,
            f"open {shown} of {disks} as overlays; replication goes on, the replica stays as it is",
            120,
            "remove the overlays with all that the guest has written",
        ),
        *([Step(BootStep.ADAPT_GUEST, adapt, scene.scenario.vm.guest.limit)] if adapt else []),
        Step(
            BootStep.DEFINE_DOMAIN,
            f"choose firmware, bus and accelerator; define domain {name} ({size}) on a network of its own",
            120,
            f"forget domain {name}",
        ),
        Step(BootStep.START_DOMAIN, f"start domain {name}", 60, f"cut the power of domain {name}"),
        *_asking(scene.scenario),
    )


def refuse(scene: Scene) -> None:
    """Raises as `plan`."""
    name, needed = scene.scenario.name, memory_of(scene.scenario) + HOST_BYTES
    if scene.why_switched is not None:
        raise StateError(
            f"{name} cannot be tested now", cause=scene.why_switched, hint=f"rha status; afterwards: rha test {name}"
        )
    if scene.domain != DomainState.ABSENT:
        raise StateError(
            f"domain {domain_of_test(name)} is there already",
            cause=f"it is {scene.domain}; an earlier test could not be cleared up",
            hint=f"rha test {name} --end; virsh list --all",
        )
    if scene.free_memory < needed:
        raise VmError(
            f"not enough memory to test {name}",
            cause=f"{show_bytes(scene.free_memory)} are free, {show_bytes(needed)} are needed; nothing was opened",
            hint="test.memory in the scenario may be less than vm.memory",
        )


def _asking(scenario: Scenario) -> list[Step]:
    ready, checks = ready_check(scenario), scenario.test.check
    steps = []
    if ready:
        steps.append(Step(BootStep.WAIT_READY, f"wait until the guest answers {describe(ready)}", ready.within))
    if checks:
        asked = ", ".join(map(describe, checks))
        steps.append(Step(BootStep.CHECK, f"ask the guest: {asked}", sum(check.within for check in checks)))
    shown = f"no check asks the guest anything: let it run for {show_seconds(SETTLE_SECONDS)}"
    return steps or [Step(BootStep.SETTLE, shown, SETTLE_SECONDS)]


def describe(check: BootCheck) -> str:
    """`tcp port 22`, `console 'login:'`, `unit nginx.service`."""
    port = guest_port_of(check.kind, check.address)
    if port:
        return f"{check.kind} port {port}"
    return f"console {check.address!r}" if check.kind == "console" else f"{check.kind} {check.address}".strip()


# What is asked ------------------------------------------------------------------------------------------------------


def ready_check(scenario: Scenario) -> BootCheck | None:
    """`vm.ready`, put to the guest of a test; None: there is none, or it cannot be led to a guest that nobody but its
    forwards reaches. A script or a ping would reach the master and take its word for the guest's."""
    ready = scenario.vm.ready
    if ready is None or ready.kind not in ("tcp", "http", "sql"):
        return None
    check = _as_boot_check(ready, scenario.vm.ready_timeout)
    port = guest_port_of(ready.kind, ready.address)
    for forward in scenario.vm.network.forward:
        if forward.host_port == port:
            return with_port(check, forward.guest_port)
    return check


def _as_boot_check(check: Check, within: Duration) -> BootCheck:
    same = {
        field: getattr(check, field) for field in ("address", "timeout", "status", "contains", "ca", "query", "expect")
    }
    return BootCheck(kind=check.kind, within=within, **same)  # type: ignore[arg-type]


def checks(scenario: Scenario) -> list[BootCheck]:
    """All that a test asks, the one for ready first."""
    ready = ready_check(scenario)
    return [*([ready] if ready else []), *scenario.test.check]


def guest_ports(scenario: Scenario) -> list[int]:
    """The ports of the guest that need a forward, ascending."""
    asked = (guest_port_of(check.kind, check.address) for check in checks(scenario))
    return sorted({*filter(None, asked), *scenario.test.ports})


def guest_port_of(kind: str, address: str) -> int | None:
    """The port that a check of this kind connects to; None: it connects to none."""
    if kind in ("http", "sql"):
        url = urlsplit(address)
        return url.port or DEFAULT_PORTS.get(url.scheme)
    if kind != "tcp":
        return None
    try:
        return tcp.split_address(address)[1]
    except NoAnswer:
        return None


def with_port(check: BootCheck, port: int) -> BootCheck:
    """The same question at another port."""
    if check.kind == "tcp":
        host, _, _ = check.address.rpartition(":")
        return msgspec.structs.replace(check, address=f"{host}:{port}")
    url = urlsplit(check.address)
    host = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else url.hostname or ""
    user = f"{url.username}@" if url.username else ""
    return msgspec.structs.replace(check, address=url._replace(netloc=f"{user}{host}:{port}").geturl())


# When it is due -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Due:
    """`now`: a test should begin. `missed`: none has begun when one should have, as a sentence; empty: all is well."""

    now: bool
    missed: str = ""


def due(test: BootTest, moment: datetime, last_begun: float | None, known_since: float) -> Due:
    """Is a test to begin at a local time? `last_begun`: the last one's, by whomever it was asked for; `known_since`:
    when this schedule was first seen here. Both in seconds since the epoch."""
    if not test.days:
        return Due(False)
    span = schedule.latest(test.days, test.begin, test.end, moment)
    if last_begun is not None and last_begun >= span.begin.timestamp():
        return Due(False)
    if moment < span.end:
        return Due(True)
    if known_since > span.begin.timestamp():
        return Due(False)
    return Due(False, f"no test has begun in its window of {span.begin:%a %F %H:%M} to {span.end:%H:%M}")
