"""The appliance's configuration file (TOML): where it listens, what it is, where it keeps what it receives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from rha import program, schema
from rha.appliance.window import Limits
from rha.control import local
from rha.journal.keys import CREDENTIAL
from rha.scenario import Duration, Name, Size
from rha.scenario_check import absolute, address, positive
from rha.schema import Clean, Mistake

# Of the names that Ceph takes, those that need no quoting anywhere they are passed on to. libvirt knows no namespaces.
_RBD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USER = re.compile(r"(?!client\.)[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ScenarioLimits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Another window for one scenario; what is not said is as for all."""

    scenario: Name
    window: Duration | None = None
    window_bytes: Size | None = None


class Target(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The image of one disk lies, raw, on a block device of its own or in a Ceph cluster, instead of in a file of the
    store. Either `device` or `rbd` is said; what follows `rbd` is valid with it only."""

    scenario: Name
    disk: Name
    device: str = ""  # a path that survives a reboot: /dev/vg0/web1-root, /dev/disk/by-id/…
    rbd: str = ""  # POOL/IMAGE
    conf: str = "/etc/ceph/ceph.conf"
    user: str = "admin"  # without its `client.`
    keyring: str = ""  # empty: where conf says, else where Ceph looks by itself

    @property
    def place(self) -> str:
        """For a person to read."""
        return self.device or f"RBD {self.rbd}"


class EtcdAccess(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Who the appliance is to the etcd of scenarios with a [lease]; which etcd that is, they say."""

    ca: str = ""  # empty: as the system trusts
    certificate: str = ""
    key: str = ""


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The whole file. Sizes in bytes."""

    listen: str = "0.0.0.0:7420"
    store: str  # directory of journals and images
    ca: str
    certificate: str
    key: str
    image_format: Literal["qcow2", "raw"] = "qcow2"
    window: Duration = Duration(86400)  # how far back every write is a point, per scenario
    window_bytes: Size = Size(16 << 30)  # undo and journal for that, per scenario; the oldest points go first
    reserve: Size = Size(1 << 30)  # stays free on the store's disk: below it points go, below half nothing is received
    limits: list[ScenarioLimits] = []
    target: list[Target] = []
    journal_key: str = ""  # encrypts journals and undo from now on: a file, or credential:NAME
    journal_old_keys: list[str] = []  # only for reading what was encrypted with them
    tests_at_once: int = 1  # test boots, of all scenarios together
    scripts: str = str(program.FOLDER)  # of fences and checks
    etcd: EtcdAccess = EtcdAccess()
    run_dir: str = msgspec.field(default_factory=lambda: str(local.RUN_DIR))  # control sockets


def load(path: Path) -> Config:
    """The configuration of a file.

    Raises ConfigError whose cause lists every mistake with its path.
    """
    return schema.load(path, Config, rules, hint="compare with docs/appliance.toml")


def rules(clean: Clean) -> Iterator[Mistake]:
    """What the types cannot say, about those values that have the right type."""
    yield from address(clean, "", "listen")
    yield from absolute(clean, "", "store", "ca", "certificate", "key", "run_dir", "scripts")
    yield from positive(clean, "", "window", "window_bytes", "tests_at_once")
    for path, place in [("journal_key", clean.get("journal_key", "")), *_old_keys(clean)]:
        if place and not place.startswith(("/", CREDENTIAL)):
            yield Mistake(path, f"{place!r} is neither an absolute path nor {CREDENTIAL}NAME")
    limits = clean.get("limits", [])
    for index, table in enumerate(limits):
        yield from positive(table, f"limits[{index}]", "window", "window_bytes")
    names = ((f"limits[{i}].scenario", table["scenario"]) for i, table in enumerate(limits) if "scenario" in table)
    yield from schema.repeated(names)
    yield from _targets(clean.get("target", []))


def _targets(tables: list[Clean]) -> Iterator[Mistake]:
    for index, table in enumerate(tables):
        path = f"target[{index}]"
        yield from absolute(table, path, *(name for name in ("device", "conf", "keyring") if table.get(name)))
        yield from _place(table, path)
    for kind in ("device", "rbd"):
        yield from schema.repeated((f"target[{i}].{kind}", one[kind]) for i, one in enumerate(tables) if one.get(kind))
    disks = (
        (f"target[{i}].disk", f"{one['scenario']}/{one['disk']}")
        for i, one in enumerate(tables)
        if "scenario" in one and "disk" in one
    )
    yield from schema.repeated(disks)


def _place(table: Clean, path: str) -> Iterator[Mistake]:
    rbd, user = table.get("rbd"), table.get("user", "admin")
    if bool(table.get("device")) == bool(rbd):
        yield Mistake(path, "names either a device or an rbd image")
    if rbd and not _RBD.fullmatch(rbd):
        yield Mistake(f"{path}.rbd", f"{rbd!r} is not POOL/IMAGE (letters, digits, . _ -; no namespace, no snapshot)")
    if not _USER.fullmatch(user):
        yield Mistake(f"{path}.user", f"{user!r} is no user of Ceph, written without its client.")


def _old_keys(clean: Clean) -> Iterator[tuple[str, str]]:
    return ((f"journal_old_keys[{i}]", place) for i, place in enumerate(clean.get("journal_old_keys", [])))


def limits_of(config: Config, scenario: str) -> Limits:
    """What is kept of one scenario."""
    for own in config.limits:
        if own.scenario == scenario:
            break
    else:
        own = ScenarioLimits(scenario=scenario)
    return Limits(
        float(config.window if own.window is None else own.window),
        int(config.window_bytes if own.window_bytes is None else own.window_bytes),
        int(config.reserve),
    )
