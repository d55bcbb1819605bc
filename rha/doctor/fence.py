"""Can what a scenario's fences and lease need be done on this host?"""

from __future__ import annotations

from pathlib import Path

from rha.doctor.check import Check, Finding, of_error, program
from rha.errors import RhaError
from rha.fence.etcd import Access, Etcd
from rha.fence.serving import Serving
from rha.fence.taking import Means, check
from rha.scenario import Lease, Scenario

ETCD_SECONDS = 5.0


def of_master(scenario: Scenario) -> list[Check]:
    """For the master: its lease."""
    lease = scenario.lease
    if lease is None:
        return []
    access = Access(lease.endpoints, lease.ca, lease.certificate, lease.key)
    return [lambda: serving(lease), *(lambda one=one: member(one, access) for one in lease.endpoints)]


def of_appliance(scenario: Scenario, means: Means) -> list[Check]:
    """For the appliance: every way to cut this scenario's master off, tried as far as it changes nothing."""
    needed = [lambda: program("ipmitool", "ipmitool")] if _has_ipmi(scenario) else []
    return [*needed, lambda: ways(scenario, means)]


def serving(lease: Lease) -> Finding:
    """Could this host serve by the lease, and only by it?"""
    refusal = Serving(lease, lambda _: None).why_not()
    if refusal:
        return of_error("lease", refusal)
    return Finding("lease", "ok", f"{', '.join([*lease.units, *lease.addresses]) or 'it stops nothing'}")


def member(endpoint: str, access: Access) -> Finding:
    """Does this member of etcd answer, for the majority? Without etcd a master with a lease stops serving."""
    name = f"etcd {endpoint}"
    try:
        Etcd(Access([endpoint], access.ca, access.certificate, access.key), ETCD_SECONDS).read("/rha/lease/")
    except RhaError as error:
        return of_error(name, error, "warning" if len(access.endpoints) > 1 else "fault")
    if len(access.endpoints) == 1:
        return Finding(name, "warning", "answers, but is the only one", "while it is away the master does not serve")
    return Finding(name, "ok", "answers")


def ways(scenario: Scenario, means: Means) -> Finding:
    """`NOT:` before what would fail; another way may be enough."""
    name = f"fence {scenario.name}"
    try:
        said = check(scenario, means)
    except RhaError as error:
        return of_error(name, error)
    if not said:
        hint = "without [[fence]] or [lease] only a person may fail over"
        return Finding(name, "warning", "nothing keeps the master from serving beside its substitute", hint)
    grade = "warning" if any(line.startswith("NOT:") for line in said) else "ok"
    return Finding(name, grade, "; ".join(said))  # type: ignore[arg-type]


def _has_ipmi(scenario: Scenario) -> bool:
    return any(str(table.__struct_config__.tag) == "ipmi" for table in scenario.fence)


def known(store: Path) -> list[Scenario]:
    """The scenarios of an appliance's store; one that cannot be read is the appliance's own alarm."""
    from rha.appliance import catalog

    found = []
    for folder in sorted(store.iterdir()) if store.is_dir() else []:
        try:
            scenario = catalog.load_scenario(folder)
        except RhaError:
            continue
        found += [scenario] if scenario else []
    return found
