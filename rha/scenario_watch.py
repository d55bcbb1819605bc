"""What makes a scenario's checks, observers, fences and lease wrong, beyond the types of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from rha import schema
from rha.errors import ConfigError
from rha.fence import terms
from rha.scenario import Duration, Scenario
from rha.scenario_redirect import FILE_NAME, UNIT, why_no_interface, why_no_interface_address
from rha.schema import Clean, Mistake
from rha.wire.address import parse_address, why_no_host

SQL_SCHEMES = ("postgresql", "postgres", "mysql")
_ONLY = {"status": "http", "contains": "http", "ca": "http", "query": "sql", "expect": "sql", "user": "script"}
_NEEDS = "silence on the link alone does not prove that the master is dead"


def rules(clean: Clean) -> Iterator[Mistake]:
    """The mistakes of `check`, `watch`, `observer`, `fence`, `lease`, and of a mode "ha" that could never act."""
    for index, table in enumerate(clean.get("check", [])):
        yield from check(table, f"check[{index}]")
    yield from _watch(clean.get("watch", {}))
    yield from _observers(clean.get("observer", []))
    for index, table in enumerate(clean.get("fence", [])):
        yield from _fence(table, f"fence[{index}]")
    yield from _lease(clean.get("lease") or {})
    if clean.get("mode") == "ha":
        yield from _ha(clean)


def warnings(scenario: Scenario) -> list[str]:
    """What is allowed and may still not be what was meant."""
    found = []
    if len(scenario.observer) == 1:
        found.append(
            "one observer and the appliance must agree: while the observer is away nothing is done by itself; "
            "with two, any one may be away"
        )
    if scenario.lease and len(scenario.lease.endpoints) == 1:
        found.append("lease.endpoints names one etcd member: while it is away the master stops serving")
    if scenario.lease and not scenario.lease.addresses and not scenario.lease.units:
        found.append("the lease stops nothing on the master: it names neither addresses nor units")
    return found


def check(table: Clean, path: str) -> Iterator[Mistake]:
    """The mistakes of one `[[check]]`."""
    yield from _positive(table, path, "timeout", "interval", "attempts", "needed")
    kind = str(table.get("kind"))
    if table.get("needed", 1) > table.get("attempts", 1):
        yield Mistake(f"{path}.needed", f"{table['needed']} answers of {table['attempts']} attempts cannot be")
    why_not = _WHY_NOT.get(kind)
    why = why_not(table["address"]) if why_not and "address" in table else None
    if why:
        yield Mistake(f"{path}.address", why)
    for field, owner in _ONLY.items():
        if owner != kind and kind in _WHY_NOT and table.get(field, _DEFAULTS[field]) != _DEFAULTS[field]:
            yield Mistake(f"{path}.{field}", f"means nothing to kind = {kind!r}, only to {owner!r}")
    for index, status in enumerate(table.get("status", [])):
        if not 100 <= status <= 599:
            yield Mistake(f"{path}.status[{index}]", f"{status} is no HTTP status")


_DEFAULTS: dict[str, Any] = {
    "status": [],
    "contains": "",
    "ca": "",
    "query": "SELECT 1",
    "expect": "",
    "user": "nobody",
}


def _why_no_ping(text: str) -> str | None:
    why = why_no_host(text)
    return f"{why}; a ping goes to a host, without a port" if why else None


def _why_no_tcp(text: str) -> str | None:
    try:
        parse_address(text)
    except ConfigError as error:
        return f"{error.what}: {error.cause}; {error.hint}"
    return None


def _why_no_url(schemes: tuple[str, ...]) -> Callable[[str], str | None]:
    def why(text: str) -> str | None:
        try:
            parts = urlsplit(text)
            _ = parts.port  # raises ValueError when it is none
        except ValueError as error:
            return f"{text!r} is no URL: {error}"
        if parts.scheme not in schemes:
            return f"{text!r} is no URL of {' or '.join(schemes)}"
        if parts.password:
            return "a password has no place in a scenario; PostgreSQL takes it from ~/.pgpass of who asks"
        return why_no_host(parts.hostname or "")

    return why


def _why_no_script(text: str) -> str | None:
    if FILE_NAME.fullmatch(text):
        return None
    return f"{text!r} is no file name; checks are run from one folder, without a path and without arguments"


def _why_no_unit(text: str) -> str | None:
    if not UNIT.fullmatch(text):
        return f"{text!r} is no name of a systemd unit"
    return None if "." in text else f"{text!r} has no suffix; write {text}.service"


_WHY_NOT: dict[str, Callable[[str], str | None]] = {
    "ping": _why_no_ping,
    "tcp": _why_no_tcp,
    "http": _why_no_url(("http", "https")),
    "sql": _why_no_url(SQL_SCHEMES),
    "script": _why_no_script,
    "unit": _why_no_unit,
}


def _watch(table: Clean) -> Iterator[Mistake]:
    yield from _positive(table, "watch", "every", "rounds")
    if table.get("calm", 0) < 0:
        yield Mistake("watch.calm", "is less than nothing")


def _observers(tables: list[Clean]) -> Iterator[Mistake]:
    for field in ("name", "address"):
        values = ((f"observer[{i}].{field}", table[field]) for i, table in enumerate(tables) if field in table)
        yield from schema.repeated(values)
    for index, table in enumerate(tables):
        yield from _positive(table, f"observer[{index}]", "timeout")
        why = _why_no_tcp(table["address"]) if "address" in table else None
        if why:
            yield Mistake(f"observer[{index}].address", why)
        if table.get("name") == "appliance":
            yield Mistake(f"observer[{index}].name", "'appliance' is the appliance's own vote")


def _fence(table: Clean, path: str) -> Iterator[Mistake]:
    yield from _positive(table, path, "limit")
    if "run" in table and (why := _why_no_script(table["run"])):
        yield Mistake(f"{path}.run", why)
    if "uri" in table and not urlsplit(table["uri"]).scheme:
        yield Mistake(
            f"{path}.uri", f"{table['uri']!r} is no libvirt URI; write for example qemu+ssh://root@host/system"
        )
    for field in ("domain", "user"):
        if table.get(field) == "":
            yield Mistake(f"{path}.{field}", "missing")
    if "password" in table and not table["password"].startswith("/"):
        yield Mistake(f"{path}.password", f"{table['password']!r} is not an absolute path")
    if table.get("kind") == "ipmi" and "address" in table:
        host, colon, port = table["address"].partition(":")
        why = why_no_host(host) or (_why_no_tcp(table["address"]) if colon and port else None)
        if why:
            yield Mistake(f"{path}.address", why)


def _lease(table: Clean) -> Iterator[Mistake]:
    yield from _positive(table, "lease", "ttl", "stop_limit")
    if table.get("endpoints") == []:
        yield Mistake("lease.endpoints", "at least one is needed")
    for index, text in enumerate(table.get("endpoints", [])):
        if why := _why_no_url(("http", "https"))(text):
            yield Mistake(f"lease.endpoints[{index}]", why)
    for index, text in enumerate(table.get("addresses", [])):
        if why := why_no_interface_address(text):
            yield Mistake(f"lease.addresses[{index}]", why)
    for index, text in enumerate(table.get("units", [])):
        if why := _why_no_unit(text):
            yield Mistake(f"lease.units[{index}]", why)
    yield from schema.repeated((f"lease.units[{i}]", unit) for i, unit in enumerate(table.get("units", [])))
    if table.get("addresses") and (why := why_no_interface(table.get("interface", ""))):
        yield Mistake("lease.interface", why)
    for field in ("ca", "certificate", "key"):
        if table.get(field) and not table[field].startswith("/"):
            yield Mistake(f"lease.{field}", f"{table[field]!r} is not an absolute path")
    if bool(table.get("certificate")) != bool(table.get("key")):
        yield Mistake("lease.key", "certificate and key belong together")
    if "ttl" in table and "stop_limit" in table:
        why = terms.why_too_short(table["ttl"], table["stop_limit"])
        yield from [Mistake("lease.ttl", why)] if why else []


def _ha(clean: Clean) -> Iterator[Mistake]:
    checks = clean.get("check")
    if checks == []:
        yield Mistake("mode", f'"ha" needs at least one [[check]]: {_NEEDS}')
    elif checks and all(table.get("kind") == "unit" for table in checks):
        text = f'"ha" needs a [[check]] besides those of kind "unit", which are told over the link: {_NEEDS}'
        yield Mistake("mode", text)
    if clean.get("fence") == [] and "lease" in clean and clean["lease"] is None:
        text = '"ha" needs a [[fence]] or a [lease]: nothing else keeps a master held for dead from serving on'
        yield Mistake("mode", text)


def _positive(table: Clean, path: str, *fields: str) -> Iterator[Mistake]:
    for field in fields:
        value: Duration | None = table.get(field)
        if value is not None and value <= 0:
            yield Mistake(f"{path}.{field}", "must be more than zero")
