"""rha kept"""

from __future__ import annotations

import json

import click

from rha import splitview
from rha.cli import ask, moving


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--drop", metavar="NAME", help="Remove it, for good.")
@click.option("--reason", default="", help="For the history, of --drop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(scenario: str, as_json: bool, drop: str | None, reason: str, yes: bool) -> None:
    """List what discarded substitutes wrote, or remove it.

    Run it on the appliance. --at NAME of rha mount, restore, export and test shows the disks as the substitute left
    them. The points back to there stay until it is dropped, whatever the window.
    """
    if drop is None:
        answer = ask.appliance("kept", scenario=scenario)
        for line in [json.dumps(answer)] if as_json else splitview.kept(scenario, answer):
            click.echo(line)
        return
    if not yes:
        moving.confirm(f"Remove {drop} of {scenario} for good?", f"rha kept {scenario} --drop {drop} --yes")
    words = {"scenario": scenario, "name": drop, "person": ask.person(), "reason": reason}
    click.echo(ask.appliance("drop_kept", **words)["sentence"])
