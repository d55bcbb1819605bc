"""rha umount"""

from __future__ import annotations

from pathlib import Path

import click

from rha.cli import ask
from rha.errors import StateError


@click.command()
@click.argument("scenario")
@click.argument("directory", type=click.Path(path_type=Path))
def command(scenario: str, directory: Path) -> None:
    """End a mount that `rha mount` has made."""
    wanted = directory.absolute()
    for point in ask.appliance("points", scenario=scenario)["open"]:
        if any(Path(where) == wanted or wanted in Path(where).parents for where in point["mounts"]):
            ask.appliance("close_point", scenario=scenario, name=point["name"])
            click.echo(f"{directory} is free again")
            return
    raise StateError(f"no point of {scenario} is mounted on {directory}", hint=f"rha points {scenario}")
