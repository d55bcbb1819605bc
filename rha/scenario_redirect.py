"""What a scenario's redirections may be: which kind of scenario allows which, and what makes a table of them wrong."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from rha import schema
from rha.errors import ConfigError
from rha.scenario import Scenario
from rha.schema import Clean, Mistake
from rha.wire.address import Address, parse_address, why_no_host

_SAME_GUEST = "its substitute is the master's own system, which brings {what} with it when it boots"
_NAME_IN_DATA = "the application keeps the computer's name in its own data, and would not start under another"
_GUESTS = "clients go to the guests, which keep {what} when they are started elsewhere"
REFUSED: dict[str, dict[str, str]] = {  # kind of scenario: {type of redirection: why it cannot work}
    "file-server": {},
    "sql": {},
    "mail": {"hostname": _NAME_IN_DATA},
    "web": {},
    "oracle": {"hostname": _NAME_IN_DATA},
    "vm-manager": {},
    "hypervisor": {
        "ip": _GUESTS.format(what="their addresses"),
        "hostname": _GUESTS.format(what="their names"),
        "alias": _GUESTS.format(what="their names"),
    },
    "full-system": {
        "ip": _SAME_GUEST.format(what="its addresses"),
        "hostname": _SAME_GUEST.format(what="its name"),
        "alias": _SAME_GUEST.format(what="its names"),
    },
}
_INTERFACE = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ is 16, with its zero; dev_valid_name() of the kernel
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NETBIOS = re.compile(r"[A-Za-z0-9!@#$%^&()\-'{}~_]{1,15}")  # 16 bytes, the last is the service (RFC 1001, 14.1)
UNIT = re.compile(r"[A-Za-z0-9:_.@-]{1,255}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
SUFFIX = "-RHA"
DNS_PORT = 53


def rules(clean: Clean) -> Iterator[Mistake]:
    """The mistakes of `kind` and `redirect`."""
    tables = clean.get("redirect", [])
    for index, table in enumerate(tables):
        path, kind = f"redirect[{index}]", clean.get("kind")
        why = REFUSED.get(str(kind), {}).get(table.get("type", ""))
        if why:
            yield Mistake(f"{path}.type", f'"{table["type"]}" does not go with kind = "{kind}": {why}')
        if table.get("limit", 1) <= 0:
            yield Mistake(f"{path}.limit", "must be more than zero")
        if "type" in table:
            yield from _RULES[table["type"]](table, path)
    yield from _combination(tables)


def warnings(scenario: Scenario) -> list[str]:
    """What is allowed and may still not work."""
    types = {table.__struct_config__.tag for table in scenario.redirect}
    found = []
    if "alias" in types and scenario.kind != "file-server":
        found.append(
            f'an alias with kind = "{scenario.kind}": only where the application accepts connections by another name'
        )
    if scenario.kind == "file-server" and ("hostname" in types) != ("dns" in types):
        found.append("a file server's clients find it by NetBIOS name and by DNS: move both, hostname and dns")
    return found


def why_no_interface_address(text: str) -> str | None:
    """What makes `192.0.2.10/24` unusable as an address that moves, or None."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return f"{text!r} is no IP address"
    if "/" not in text:
        return f"{text!r} has no prefix length; write for example {text}/{24 if address.version == 4 else 64}"
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        return f"{text!r} is no address of a host"
    if address.version == 4 and address.network.prefixlen < 31:
        network = address.network
        if address.ip in (network.network_address, network.broadcast_address):
            return f"{text!r} is the network's own or its broadcast address"
    return None


def why_no_interface(text: str) -> str | None:
    """What makes a text no name of a network card, or None."""
    if _INTERFACE.fullmatch(text) and text not in (".", ".."):
        return None
    return f"{text!r} is no name of a network card"


def is_address(text: str) -> bool:
    """An IP address, not a name?"""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ip(table: Clean, path: str) -> Iterator[Mistake]:
    yield from _each(table, path, "addresses", why_no_interface_address)
    name = table.get("interface")
    why = why_no_interface(name) if name is not None else None
    if why:
        yield Mistake(f"{path}.interface", why)


def _hostname(table: Clean, path: str) -> Iterator[Mistake]:
    name = table.get("name")
    if name is not None and not _LABEL.fullmatch(name):
        yield Mistake(f"{path}.name", f"{name!r} is no computer name; letters, digits and inner hyphens, no dot")
    elif name is not None and len(name + SUFFIX) > 63:
        yield Mistake(f"{path}.name", f"{name!r} leaves no room for {SUFFIX} within 63 characters")
    yield from _each(table, path, "restart", _unless(UNIT, "is no name of a systemd unit"), may_be_empty=True)


def _dns(table: Clean, path: str) -> Iterator[Mistake]:
    yield from _each(table, path, "servers", _why_no_server)
    yield from _each(table, path, "secondaries", _why_no_server, may_be_empty=True)
    for field in ("zone", "name"):
        text = table.get(field)
        why = why_no_host(text) or ("an address has no record" if is_address(text) else None) if text else None
        if text == "" or why:
            yield Mistake(f"{path}.{field}", why or "missing")
    for field in ("master", "replica"):
        yield from _each(table, path, field, why_no_host)
    yield from _dns_sides(table.get("master"), table.get("replica"), path)
    if table.get("key") and not table["key"].startswith("/"):
        yield Mistake(f"{path}.key", f"{table['key']!r} is not an absolute path")
    if not 0 < table.get("ttl", 1) < 1 << 31:
        yield Mistake(f"{path}.ttl", "is not between 1 s and 2147483647 s (RFC 2181, 8)")


def _dns_sides(master: list[str] | None, replica: list[str] | None, path: str) -> Iterator[Mistake]:
    if not master or not replica:
        return
    names = [text for text in (*master, *replica) if not is_address(text)]
    if names and (len(master), len(replica), len(names)) != (1, 1, 2):
        yield Mistake(f"{path}.replica", "write addresses on both sides, or one host name on each (CNAME)")
    elif sorted(master) == sorted(replica):
        yield Mistake(f"{path}.replica", "is the same as master: nothing would be redirected")


def _alias(table: Clean, path: str) -> Iterator[Mistake]:
    yield from _each(table, path, "names", _unless(_NETBIOS, "is no NetBIOS name; at most 15 characters, no dot"))


def _script(table: Clean, path: str) -> Iterator[Mistake]:
    name = table.get("run")
    if name is not None and not FILE_NAME.fullmatch(name):
        text = f"{name!r} is no file name; scripts are run from one folder, without a path and without arguments"
        yield Mistake(f"{path}.run", text)
    if table.get("user") == "":
        yield Mistake(f"{path}.user", "missing; the name of a user")


_RULES: dict[str, Callable[[Clean, str], Iterator[Mistake]]] = {
    "ip": _ip,
    "hostname": _hostname,
    "dns": _dns,
    "alias": _alias,
    "script": _script,
}


def _combination(tables: list[Clean]) -> Iterator[Mistake]:
    """Two that would fight over the same thing."""
    yield from schema.repeated(
        (f"redirect[{i}].addresses[{j}]", text.partition("/")[0].lower())
        for i, table in enumerate(tables)
        for j, text in enumerate(table.get("addresses", []))
    )
    yield from schema.repeated(_dns_names(tables))
    yield from schema.repeated(
        (f"redirect[{i}].names[{j}]", name.upper())
        for i, table in enumerate(tables)
        for j, name in enumerate(table.get("names", []))
    )
    hostnames = [(i, table) for i, table in enumerate(tables) if table.get("type") == "hostname"]
    for index, _ in hostnames[1:]:
        yield Mistake(f"redirect[{index}].type", "a host has one computer name; a second one is an alias")
    own = {table.get("name", "").upper() for _, table in hostnames}
    for index, table in enumerate(tables):
        if own & {name.upper() for name in table.get("names", [])}:
            yield Mistake(f"redirect[{index}].names", "a name cannot be both the computer name and an alias")


def _dns_names(tables: list[Clean]) -> Iterator[tuple[str, str]]:
    for index, table in enumerate(tables):
        if table.get("type") == "dns" and table.get("name") and table.get("zone"):
            yield f"redirect[{index}].name", absolute_name(table["name"], table["zone"]).lower()


def absolute_name(name: str, zone: str) -> str:
    """`www` below its zone, with the final dot. A name that ends with the zone is taken as absolute."""
    zone = zone.rstrip(".")
    if name.endswith(".") or name == zone or name.lower().endswith("." + zone.lower()):
        return name.rstrip(".") + "."
    return f"{name}.{zone}."


def _each(
    table: Clean, path: str, field: str, why_not: Callable[[str], str | None], *, may_be_empty: bool = False
) -> Iterator[Mistake]:
    values: Iterable[object] = table.get(field, ())
    if field in table and not values and not may_be_empty:
        yield Mistake(f"{path}.{field}", "at least one is needed")
    for index, text in enumerate(values):
        why = why_not(text) if isinstance(text, str) else None
        if why:
            yield Mistake(f"{path}.{field}[{index}]", why)


def _unless(pattern: re.Pattern[str], text: str) -> Callable[[str], str | None]:
    return lambda value: None if pattern.fullmatch(value) else f"{value!r} {text}"


def _why_no_server(text: str) -> str | None:
    try:
        return why_no_host(parse_server(text).host)
    except ConfigError as error:
        return f"{error.what}: {error.cause}"


def parse_server(text: str) -> Address:
    """A DNS server, `host` or `host:port`. Raises ConfigError."""
    bare = is_address(text) or ":" not in text
    return Address(text, DNS_PORT) if bare else parse_address(text)
