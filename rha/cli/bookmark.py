"""rha bookmark"""

from __future__ import annotations

import click

from rha import pointsview
from rha.cli import ask


@click.command()
@click.argument("scenario")
@click.argument("name")
@click.option("--at", default="now", show_default=True, help="LSN, time, duration (so long ago), bookmark.")
@click.option("--drop", is_flag=True, help="Forget the name. The point stays as long as it is in the window.")
def command(scenario: str, name: str, at: str, drop: bool) -> None:
    """Give a point a name.

    Run it on the appliance. A bookmark does not lengthen the window: it goes when its point goes.
    """
    found = ask.appliance("bookmark", scenario=scenario, name=name, at=at, by=ask.person(), drop=drop)
    if drop:
        click.echo(f"{scenario}: {name} is forgotten")
    else:
        click.echo(f"{scenario}: {name} is {pointsview.place(found['lsn'], found['time'])}")
