"""The appliance's configuration file (TOML): where it listens, what it is, where it keeps what it receives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from rha import schema
from rha.control import local
from rha.scenario import Size
from rha.scenario_check import absolute, address, positive
from rha.schema import Clean, Mistake


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The whole file. Sizes in bytes."""

    listen: str = "0.0.0.0:7420"
    store: str  # directory of journals and images
    ca: str
    certificate: str
    key: str
    image_format: Literal["qcow2", "raw"] = "qcow2"
    journal_keep: Size = Size(1 << 30)  # applied journal that stays, per scenario
    run_dir: str = msgspec.field(default_factory=lambda: str(local.RUN_DIR))  # control sockets


def load(path: Path) -> Config:
    """The configuration of a file.

    Raises ConfigError whose cause lists every mistake with its path.
    """
    return schema.load(path, Config, rules, hint="compare with docs/appliance.toml")


def rules(clean: Clean) -> Iterator[Mistake]:
    """What the types cannot say, about those values that have the right type."""
    yield from address(clean, "", "listen")
    yield from absolute(clean, "", "store", "ca", "certificate", "key", "run_dir")
    yield from positive(clean, "", "journal_keep")
