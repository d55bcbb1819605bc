"""Can the images that the appliance's file puts into Ceph be there?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rha.appliance import rbd_target
from rha.appliance.config import Config, Target
from rha.appliance.places import Places
from rha.doctor.check import Check, Finding, of_error
from rha.errors import RhaError


def of_appliance(config: Config) -> list[Check]:
    """One check for each `[[target]]` with an rbd image; every cluster is asked, with a limit of time."""
    return [partial(in_ceph, config, one) for one in config.target if one.rbd]


def in_ceph(config: Config, target: Target) -> Finding:
    """How it stands with one."""
    name = f"target {target.scenario}/{target.disk}"
    path = Places(config, Path(config.store) / target.scenario).spec(target.disk).path
    try:
        return Finding(name, "ok", rbd_target.look(path, target))
    except RhaError as error:
        return of_error(name, error)
