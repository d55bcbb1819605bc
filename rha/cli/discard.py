"""rha discard"""

from __future__ import annotations

import click

from rha.cli import ask, moving


@click.command()
@click.argument("scenario")
@click.option("--no-keep", is_flag=True, help="Remove what the substitute has written, too.")
@click.option("--reason", default="", help="For the history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(scenario: str, no_keep: bool, reason: str, yes: bool) -> None:
    """End a failover or switchover: remove the substitute VM, keep what it wrote aside.

    Run it on the appliance. What the substitute has written is kept aside (rha kept); the replica is as it was and
    receives again. The master may connect again, and one that has handed over serves again.
    """
    click.echo(consequence(scenario, no_keep=no_keep))
    if not yes:
        moving.confirm("Remove it now?", f"rha discard {scenario}{' --no-keep' if no_keep else ''} --yes")
    words = {"scenario": scenario, "person": ask.person(), "reason": reason, "keep": not no_keep}
    click.echo(ask.appliance("discard", **words)["sentence"])


def consequence(scenario: str, *, no_keep: bool) -> str:
    """What a discard would do, in words."""
    what = f"The substitute VM of {scenario} will be cut off and removed"
    if no_keep:
        return f"{what}, WITH ALL THAT IT WROTE SINCE IT STARTED: nothing of that can be had again."
    return f"{what}. What it wrote is kept aside: rha kept {scenario}."
