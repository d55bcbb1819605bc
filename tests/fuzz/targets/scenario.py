"""Files that people write: scenario, appliance and observer configuration. All mistakes are named, what passes makes
sense, and no name in it leads out of a folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rha import scenario_check
from rha.appliance import catalog, config
from rha.scenario import Scenario, from_plain, to_plain
from rha.watch import observe


def run(data: bytes, folder: Path) -> None:
    if not data:
        return
    path = folder / "file.toml"
    path.write_bytes(data[1:])
    match data[0] % 3:
        case 0:
            check(scenario_check.load(path), folder)
        case 1:
            config.load(path)
        case 2:
            observe.load(path)


def check(scenario: Scenario, folder: Path) -> None:
    assert from_plain(to_plain(scenario)) == scenario
    catalog.save_scenario(folder, scenario)
    loaded = catalog.load_scenario(folder)
    assert msgspec.json.encode(to_plain(scenario)) == msgspec.json.encode(to_plain(loaded)) if loaded else False
    for name in (scenario.name, *(disk.name for disk in scenario.disk)):
        assert (folder / f"{name}.qcow2").resolve().parent == folder.resolve(), name
        assert name.isprintable(), name
