"""The appliance's side of I6: the master is cut off, and the lease is the appliance's, before a substitute boots.

Fences are tried in the scenario's order until one succeeds; then the lease, if there is one, is taken at once, since
who held it is off. Without a successful fence the lease is waited for: it ends when the master does not renew it, and
then the master has stopped serving (terms.py). A lease that goes on being renewed is a master that serves: refused.

The appliance's own lease does not end by itself. While its substitute serves nobody else shall, also when the appliance
dies meanwhile; `release` gives it up.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rha.errors import RhaError, StateError
from rha.fence.base import FencePlace
from rha.fence.etcd import Access, Etcd
from rha.fence.kinds import made
from rha.scenario import Lease, Scenario
from rha.units import show_seconds

Say = Callable[[str], None]
_WAYS = {
    "script": "cut the master off by the script {0.run}",
    "libvirt": "destroy domain {0.domain} at {0.uri}",
    "ipmi": "switch the master's power off by IPMI at {0.address}",
}
ETCD_SECONDS = 3.0
WAIT_SECONDS = 0.2
APPLIANCE = "appliance "  # how the name of an appliance in a lease begins; a master's is in holder.py
GRACE_SECONDS = 5.0  # beyond the lease's time: etcd looks for ended leases twice a second; a new leader counts anew


@dataclass(frozen=True)
class Means:
    """How this appliance fences. `access`: its own certificates for etcd; the endpoints are the scenario's."""

    place: FencePlace
    me: str
    access: Access


def key_of(scenario: str) -> str:
    return f"/rha/lease/{scenario}"


def appliance_name(store: Path) -> str:
    """Who the appliance is in a lease, the same after each restart."""
    return f"{APPLIANCE}{socket.gethostname()}:{store}"


def why_not_possible(scenario: Scenario) -> str | None:
    """The reason why nothing could keep the master from serving beside a substitute, or None."""
    if scenario.fence or scenario.lease:
        return None
    return "neither a [[fence]] nor a [lease] is configured: nothing keeps the master from serving on"


def describe(scenario: Scenario) -> str:
    """The sentence of a plan's step."""
    ways = [_WAYS[str(table.__struct_config__.tag)].format(table) for table in scenario.fence]
    lease = ["take the lease in etcd" if ways else "wait until the master's lease in etcd has ended, and take it"]
    return "; ".join([*(["; else ".join(ways)] if ways else []), *(lease if scenario.lease else [])])


def limit_of(scenario: Scenario) -> float:
    """Seconds that `cut_off` may take."""
    lease = scenario.lease.ttl + GRACE_SECONDS + ETCD_SECONDS if scenario.lease else 0.0
    return sum(fence.limit for fence in scenario.fence) + lease


def check(scenario: Scenario, means: Means) -> list[str]:
    """Whether it could be done now, of every way. Raises RhaError with all that speaks against it when no way is
    left."""
    said, failures = list[str](), list[RhaError]()
    for fence in made(scenario.fence, means.place):
        _try(lambda fence=fence: fence.do("check"), said, failures)  # type: ignore[misc]
    if scenario.lease:
        _try(lambda: _owner(scenario, means), said, failures)
    if failures and not said:
        raise _joined("the master could not be cut off", failures)
    return [*said, *(f"NOT: {failure.what}" for failure in failures)]


def _owner(scenario: Scenario, means: Means) -> str:
    held = _etcd(scenario.lease, means).read(key_of(scenario.name))
    return f"the lease is held by {held.value}" if held else "nobody holds the lease"


def cut_off(scenario: Scenario, means: Means, say: Say) -> None:
    """Makes sure that the master does not serve. May be repeated. Raises RhaError when that is not certain."""
    failures: list[RhaError] = []
    is_off = False
    for fence in made(scenario.fence, means.place):
        try:
            say(fence.do("cut"))
            is_off = True
            break
        except RhaError as error:
            say(f"{error.what}; {error.cause}" if error.cause else error.what)
            failures.append(error)
    if scenario.lease:
        try:
            say(take(_etcd(scenario.lease, means), scenario, means.me, is_off=is_off))
        except RhaError as error:
            raise _joined("the master may still serve", [*failures, error]) from error
    elif not is_off:
        raise _joined("the master may still serve", failures or [StateError(why_not_possible(scenario) or "")])


def take(etcd: Etcd, scenario: Scenario, me: str, *, is_off: bool) -> str:
    """Takes the lease for good; `is_off`: from whoever holds it. Raises StateError when another keeps it, NetworkError
    when etcd does not answer."""
    key, begun = key_of(scenario.name), time.monotonic()
    limit = (scenario.lease.ttl if scenario.lease else 0.0) + GRACE_SECONDS
    while True:
        held = etcd.read(key)
        if held and held.value == me and not held.lease:
            return f"the lease of {scenario.name} is this appliance's"
        if held and held.value.startswith(APPLIANCE):
            raise StateError(f"{held.value} holds the lease of {scenario.name}", cause="its substitute may serve")
        if held is None or is_off:
            if etcd.put_if(key, me, lease=0, revision=held.mod_revision if held else 0) is None:
                return f"the lease of {scenario.name} is taken, after {show_seconds(time.monotonic() - begun)}"
        elif time.monotonic() - begun > limit:
            raise StateError(
                f"{held.value} keeps the lease of {scenario.name}",
                cause=f"it has renewed it within the last {show_seconds(limit)}: it is alive, and it serves",
                hint="is only the link to the master lost?",
            )
        time.sleep(WAIT_SECONDS)


def own(scenario: Scenario, means: Means, say: Say) -> None:
    """Makes sure that a lease which was handed over is this appliance's. Raises StateError, NetworkError."""
    say(take(_etcd(scenario.lease, means), scenario, means.me, is_off=False))


def release(scenario: Scenario, means: Means) -> str:
    """Gives the lease back, so that the master may serve again. Raises NetworkError when etcd does not answer."""
    etcd, key = _etcd(scenario.lease, means), key_of(scenario.name)
    held = etcd.read(key)
    if held is None or held.value != means.me:
        return f"the lease of {scenario.name} is not this appliance's"
    etcd.delete_if(key, revision=held.mod_revision)
    return f"the lease of {scenario.name} is given back: the master may serve"


def _etcd(lease: Lease | None, means: Means) -> Etcd:
    own = means.access
    return Etcd(Access(lease.endpoints if lease else (), own.ca, own.certificate, own.key), ETCD_SECONDS)


def _try(act: Callable[[], str], said: list[str], failures: list[RhaError]) -> None:
    try:
        said.append(act())
    except RhaError as error:
        failures.append(error)


def _joined(what: str, failures: list[RhaError]) -> RhaError:
    causes = [f"{failure.what}: {failure.cause}" if failure.cause else failure.what for failure in failures]
    hint = next((failure.hint for failure in failures if failure.hint), "")
    return StateError(what, cause="\n       ".join(causes), hint=hint)
