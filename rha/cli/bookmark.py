"""rha bookmark"""

from __future__ import annotations

import click

from rha import pointsview
from rha.cli import ask


@click.command()
@click.argument("scenario")
@click.argument("name")
@click.option("--at", default="now", show_default=True, help="LSN, time, duration (so long ago), bookmark.")
@click.option("--quiesce", is_flag=True, help="Have the master brought to a clean state, and name that.")
@click.option("--drop", is_flag=True, help="Forget the name. The point stays as long as it is in the window.")
def command(scenario: str, name: str, at: str, quiesce: bool, drop: bool) -> None:
    """Give a point a name.

    Run it on the appliance. A bookmark does not lengthen the window: it goes when its point goes.

    With --quiesce the master's engine does what [quiesce] of its scenario says: applications write what they hold in
    memory, file systems are frozen for a moment. When something cannot be, there is no bookmark.
    """
    if quiesce and (drop or at != "now"):
        raise click.UsageError("--quiesce makes a new point: it goes with neither --at nor --drop.")
    found = ask.appliance("bookmark", scenario=scenario, name=name, at=at, by=ask.person(), drop=drop, quiesce=quiesce)
    if drop:
        click.echo(f"{scenario}: {name} is forgotten")
    else:
        click.echo(f"{scenario}: {name} is {pointsview.bookmark(found)}")
