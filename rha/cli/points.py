"""rha points"""

from __future__ import annotations

import json

import click

from rha import pointsview
from rha.cli import ask


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--close", metavar="NUMBER", help="Close an open point that somebody has left.")
def command(scenario: str, as_json: bool, close: str | None) -> None:
    """Show the points in time that a scenario can be shown at.

    Run it on the appliance. Every single write in the window is a point: --at of the other verbs takes an LSN, a time
    (2026-11-24T03:00:00.5), a duration (10min: so long ago), a bookmark's name, or now.
    """
    if close:
        ask.appliance("close_point", scenario=scenario, name=close)
        click.echo(f"{scenario}: point {close} is closed")
        return
    answer = ask.appliance("points", scenario=scenario)
    for line in [json.dumps(answer)] if as_json else pointsview.listing(answer):
        click.echo(line)
