"""rha mount"""

from __future__ import annotations

from pathlib import Path

import click

from rha import pointsview
from rha.cli import ask


@click.command()
@click.argument("scenario")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--at", required=True, help="LSN, time, duration (so long ago), bookmark, kept, now.")
def command(scenario: str, directory: Path, at: str) -> None:
    """Mount the file systems of a point, read-only.

    Run it on the appliance. One file system is mounted on DIRECTORY, several below it. A file system that was in use
    replays its own journal first, beside the replica: nothing of the replica changes, and replication goes on.
    """
    point = ask.appliance("mount_point", scenario=scenario, at=at, directory=str(directory.absolute()))
    click.echo(f"{scenario} at {pointsview.shown(point)}")
    for where in point["mounts"]:
        click.echo(f"  {where}")
    click.echo(f"end it with: rha umount {scenario} {directory}")
