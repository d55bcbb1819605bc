"""rha resume"""

from __future__ import annotations

import click

from rha.cli import ask, moving
from rha.control import local


@click.command()
@click.argument("scenario")
@click.option("--reason", default="", help="For the history.")
@click.option("--service", is_flag=True, help="On the master: take back the service that a switchover has taken.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(scenario: str, reason: str, service: bool, yes: bool) -> None:
    """End what `rha pause` has begun.

    Run it on the appliance, which acts by itself again where mode is "ha". With --service on a master whose appliance
    is lost in the middle of a switchover.
    """
    if not service:
        click.echo(ask.appliance("resume", scenario=scenario, person=ask.person(), reason=reason)["sentence"])
        return
    click.echo(f"The master of {scenario} will start again what was stopped for a switchover.")
    click.echo("Make sure that no substitute serves: two that serve at once make data that nobody can join again.")
    if not yes:
        moving.confirm(f"Serve {scenario} here now?", f"rha resume {scenario} --service --yes")
    click.echo(local.call(local.RUN_DIR / f"engine-{scenario}.sock", "resume", timeout=None)["sentence"])
