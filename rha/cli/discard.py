"""rha discard"""

from __future__ import annotations

import click

from rha.cli import ask, moving


@click.command()
@click.argument("scenario")
@click.option("--reason", default="", help="For the history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(scenario: str, reason: str, yes: bool) -> None:
    """End a failover or switchover: remove the substitute VM.

    Run it on the appliance. What the substitute has written is removed with it; the replica is as it was and receives
    again. The master may connect again, and one that has handed over serves again.
    """
    click.echo(f"The substitute VM of {scenario} will be cut off and removed, with all that it wrote since it started.")
    if not yes:
        moving.confirm("Remove it now?", f"rha discard {scenario} --yes")
    click.echo(ask.appliance("discard", scenario=scenario, person=ask.person(), reason=reason)["sentence"])
