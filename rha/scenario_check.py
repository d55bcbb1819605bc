"""Reads a scenario file and says everything that is wrong with it at once.

Only what the file itself shows is judged here; whether its devices exist is `rha scenario check --here`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rha import scenario_boot, scenario_guest, scenario_redirect, scenario_watch, schedule, schema
from rha.errors import ConfigError
from rha.scenario import Scenario
from rha.schema import Clean, Mistake
from rha.units import show_bytes, show_seconds
from rha.wire.address import parse_address, why_no_host, why_no_port

MAX_DISKS = 16  # RHA_MAX_DISKS in csrc/record.h
MIN_RING_BYTES = 4096
MAX_RING_BYTES = 2 << 30
MIN_LIMIT = 16 << 10  # bytes per second; below it a frame of a few hundred KiB would take minutes
MAX_CANDIDATES = 9
MIN_SPOOL_BYTES = 16 << 20
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,200}\.(service|socket|target|timer|mount|slice|path)")  # systemd.unit(5)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


def load(path: Path) -> Scenario:
    """The scenario of a file.

    Raises ConfigError whose cause lists every mistake with its path.
    """
    return schema.load(path, Scenario, rules, hint="compare with: rha scenario sample")


def rules(clean: Clean) -> Iterator[Mistake]:
    """What the types cannot say. `clean` holds only values of the right type; an absent one was already named."""
    yield from _disks(clean.get("disk"))
    yield from _appliance(clean.get("appliance", {}))
    yield from _ring(clean.get("capture", {}).get("ring"))
    yield from _link(clean.get("link", {}))
    yield from _spool(clean.get("spool") or {})
    yield from _limit(clean.get("sync", {}), "sync.read_limit", "read_limit")
    yield from scenario_watch.rules(clean)
    yield from _vm(clean.get("vm", {}))
    yield from _switch(clean.get("switch", {}))
    yield from scenario_boot.rules(clean)
    yield from scenario_redirect.rules(clean)


def _disks(disks: list[Clean] | None) -> Iterator[Mistake]:
    if disks is None:
        return
    if not disks:
        yield Mistake("disk", "at least one disk is needed")
    if len(disks) > MAX_DISKS:
        yield Mistake("disk", f"{len(disks)} disks; at most {MAX_DISKS} share one order")
    for field in ("name", "device"):
        values = ((f"disk[{index}].{field}", disk[field]) for index, disk in enumerate(disks) if field in disk)
        yield from schema.repeated(values)
    for index, disk in enumerate(disks):
        yield from absolute(disk, f"disk[{index}]", "device")


def _appliance(table: Clean) -> Iterator[Mistake]:
    yield from address(table, "appliance")
    yield from absolute(table, "appliance", "ca", "certificate", "key")


def _ring(size: int | None) -> Iterator[Mistake]:
    if size is None:
        return
    if not MIN_RING_BYTES <= size <= MAX_RING_BYTES:
        limits = f"{show_bytes(MIN_RING_BYTES)} and {show_bytes(MAX_RING_BYTES)}"
        yield Mistake("capture.ring", f"{show_bytes(size)} is not between {limits}")
    elif size & (size - 1):
        below = 1 << (size.bit_length() - 1)
        near = f"{show_bytes(below)} or {show_bytes(2 * below)}"
        yield Mistake("capture.ring", f"{show_bytes(size)} is no power of two; write {near}")


def _link(table: Clean) -> Iterator[Mistake]:
    yield from positive(table, "link", "heartbeat", "lost_after")
    heartbeat, lost_after = table.get("heartbeat"), table.get("lost_after")
    if heartbeat and lost_after and lost_after < 2 * heartbeat:
        text = (
            f"{show_seconds(lost_after)} is under two heartbeats of {show_seconds(heartbeat)}: one late one would count"
        )
        yield Mistake("link.lost_after", text)

    yield from _limit(table, "link.limit")
    for index, window in enumerate(table.get("schedule", [])):
        yield from _window(window, f"link.schedule[{index}]")


def _limit(table: Clean, path: str, field: str = "limit") -> Iterator[Mistake]:
    if 0 < table.get(field, 0) < MIN_LIMIT:
        yield Mistake(path, f"{show_bytes(table[field])}/s is under {show_bytes(MIN_LIMIT)}/s")


def _window(table: Clean, path: str) -> Iterator[Mistake]:
    yield from _limit(table, f"{path}.limit")
    for field, why_not in (
        ("from", schedule.why_no_clock),
        ("to", schedule.why_no_clock),
        ("days", schedule.why_no_days),
    ):
        why = why_not(table[field]) if field in table else None
        if why:
            yield Mistake(f"{path}.{field}", why)
    if table.get("from") == "24:00":
        yield Mistake(f"{path}.from", "a window cannot begin at 24:00; write 00:00")
    if table.get("from") == table.get("to") is not None:
        yield Mistake(f"{path}.to", "the window is empty; a whole day is 00:00 to 24:00")


def _spool(table: Clean) -> Iterator[Mistake]:
    yield from absolute(table, "spool", "path")
    if table.get("size", MIN_SPOOL_BYTES) < MIN_SPOOL_BYTES:
        yield Mistake("spool.size", f"{show_bytes(table['size'])} is under {show_bytes(MIN_SPOOL_BYTES)}")


def _vm(table: Clean) -> Iterator[Mistake]:
    yield from positive(table, "vm", "memory", "cpus", "ready_timeout")
    yield from _network(table.get("network", {}), "vm.network")
    if not 0 <= table.get("candidates", 0) <= MAX_CANDIDATES:
        yield Mistake("vm.candidates", f"{table['candidates']} is not between 0 and {MAX_CANDIDATES}")
    if table.get("candidates", 0) > 0 and "ready" in table and table["ready"] is None:
        yield Mistake("vm.candidates", "needs [vm.ready]: nothing else says that a point does not boot")
    yield from scenario_guest.rules(table.get("guest", {}), table.get("network", {}))
    if table.get("ready"):
        yield from scenario_watch.check(table["ready"], "vm.ready")


def _switch(table: Clean) -> Iterator[Mistake]:
    yield from positive(table, "switch", "limit")
    units = [(f"switch.units[{index}]", unit) for index, unit in enumerate(table.get("units", []))]
    for path, unit in units:
        if not _UNIT.fullmatch(unit):
            yield Mistake(path, f"{unit!r} is no systemd unit; write for example nginx.service")
    yield from schema.repeated(units)


def _network(table: Clean, path: str) -> Iterator[Mistake]:
    kind, source, mac = table.get("kind"), table.get("source"), table.get("mac")
    forwards = table.get("forward", [])
    if forwards and kind not in ("user", None):
        yield Mistake(f"{path}.forward", f'ports are forwarded only by kind = "user", not by {kind!r}')
    if kind in ("bridge", "network") and source == "":
        yield Mistake(f"{path}.source", f"missing; kind = {kind!r} needs the name of the {kind}")
    if kind in ("none", "user") and source:
        yield Mistake(f"{path}.source", f"{source!r} means nothing to kind = {kind!r}")
    if mac and not _MAC.fullmatch(mac):
        yield Mistake(f"{path}.mac", f"{mac!r} is no MAC address; write for example 52:54:00:12:34:56")
    yield from _forwards(forwards, f"{path}.forward")


def _forwards(forwards: list[Clean], path: str) -> Iterator[Mistake]:
    for index, forward in enumerate(forwards):
        for field in ("host_port", "guest_port"):
            why = why_no_port(forward[field]) if field in forward else None
            if why:
                yield Mistake(f"{path}[{index}].{field}", why)
        why = why_no_host(forward["host"]) if "host" in forward else None
        if why:
            yield Mistake(f"{path}[{index}].host", why)
    ports = ((f"{path}[{i}].host_port", f["host_port"]) for i, f in enumerate(forwards) if "host_port" in f)
    yield from schema.repeated(ports)


def address(table: Clean, path: str, field: str = "address") -> Iterator[Mistake]:
    """A mistake when the field is there and is no `host:port`."""
    if field not in table:
        return
    try:
        parse_address(table[field])
    except ConfigError as error:
        yield Mistake(schema.join(path, field), f"{error.what}: {error.cause}; {error.hint}")


def absolute(table: Clean, path: str, *fields: str) -> Iterator[Mistake]:
    """A mistake for each field whose path would depend on where a daemon is started."""
    for field in fields:
        text = table.get(field)
        if text is not None and not text.startswith("/"):
            yield Mistake(schema.join(path, field), f"{text!r} is not an absolute path")


def positive(table: Clean, path: str, *fields: str) -> Iterator[Mistake]:
    """A mistake for each field that is zero or less."""
    for field in fields:
        value: Any = table.get(field)
        if value is not None and value <= 0:
            yield Mistake(schema.join(path, field), "must be more than zero")
