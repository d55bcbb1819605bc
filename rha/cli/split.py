"""rha split"""

from __future__ import annotations

import json

import click

from rha import splitview
from rha.cli import ask


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def command(scenario: str, as_json: bool) -> None:
    """Show what a master and its substitute each wrote alone, and the ways out.

    Run it on the appliance, while a substitute stands. Changes nothing. The commands of each way are shown in their
    order, with the names of this scenario.
    """
    answer = ask.appliance("split", scenario=scenario)
    for line in [json.dumps(answer)] if as_json else splitview.report(answer):
        click.echo(line)
