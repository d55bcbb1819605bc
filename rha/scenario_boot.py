"""What makes a scenario's test boots wrong, beyond the types of their values."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from rha import scenario_watch, schedule
from rha.scenario import Scenario
from rha.schema import Clean, Mistake
from rha.switch import bootplan
from rha.wire.address import why_no_port

WATCH_KINDS = ("tcp", "http", "sql", "script", "unit")


def rules(clean: Clean) -> Iterator[Mistake]:
    """The mistakes of `test`."""
    table = clean.get("test", {})
    for field in ("memory", "cpus", "limit", "keep"):
        if (value := table.get(field)) is not None and value <= 0:
            yield Mistake(f"test.{field}", "must be more than zero")
    yield from _window(table)
    if table.get("point") == "":
        yield Mistake("test.point", "missing; write now, a duration (10min: so long ago), or a bookmark's name")
    if table.get("address") and (why := _why_no_address(table["address"])):
        yield Mistake("test.address", why)
    for index, port in enumerate(table.get("ports", [])):
        if why := why_no_port(port):
            yield Mistake(f"test.ports[{index}]", why)
    for index, check in enumerate(table.get("check", [])):
        yield from _check(check, f"test.check[{index}]")


def warnings(scenario: Scenario) -> list[str]:
    """What is allowed and may still not be what was meant."""
    found = []
    ready, test = scenario.vm.ready, scenario.test
    if ready and bootplan.ready_check(scenario) is None:
        found.append(
            f"vm.ready of kind {ready.kind!r} is not asked in a test boot: it would ask the master, not the guest"
        )
    if test.days and not bootplan.checks(scenario):
        found.append("test boots ask the guest nothing: name a [[test.check]]")
    return found


def _window(table: Clean) -> Iterator[Mistake]:
    for field, why_not in (("from", schedule.why_no_clock), ("to", schedule.why_no_clock)):
        if field in table and (why := why_not(table[field])):
            yield Mistake(f"test.{field}", why)
    if table.get("days") and (why := schedule.why_no_days(table["days"])):
        yield Mistake("test.days", why)
    if table.get("from") == "24:00":
        yield Mistake("test.from", "a window cannot begin at 24:00; write 00:00")
    if table.get("from") == table.get("to") is not None:
        yield Mistake("test.to", "the window is empty; a whole day is 00:00 to 24:00")


def _why_no_address(text: str) -> str | None:
    """QEMU wants two addresses of the guest's network for itself."""
    try:
        found = ipaddress.IPv4Interface(text)
    except ValueError:
        return f"{text!r} is no IPv4 address with a prefix length; write for example 192.0.2.10/24"
    if not 8 <= found.network.prefixlen <= 29:
        return f"{text!r} needs a prefix length of 8 to 29: two more addresses of its network are used beside it"
    if found.ip in (found.network.network_address, found.network.broadcast_address):
        return f"{text!r} is its network's own address, or its broadcast address"
    return None


def _check(table: Clean, path: str) -> Iterator[Mistake]:
    kind, address = table.get("kind"), table.get("address")
    if kind in WATCH_KINDS:
        yield from scenario_watch.check(table, path)
    elif kind == "agent" and address:
        yield Mistake(f"{path}.address", f"{address!r} means nothing to kind = 'agent'")
    elif kind == "console" and address is not None:
        yield from _pattern(address, path)
    if table.get("within", 1) <= 0:
        yield Mistake(f"{path}.within", "must be more than zero")


def _pattern(text: str, path: str) -> Iterator[Mistake]:
    if not text:
        yield Mistake(f"{path}.address", "missing; a text, or a regular expression, that the console shows")
    try:
        re.compile(text)
    except re.error as error:
        yield Mistake(f"{path}.address", f"{text!r} is no regular expression: {error}")
