"""rha discard"""

from __future__ import annotations

import sys

import click

from rha.control import local
from rha.errors import StateError


@click.command()
@click.argument("scenario")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(scenario: str, yes: bool) -> None:
    """End a failover: remove the substitute VM, receive again.

    Run it on the appliance. What the substitute has written is removed with it; the replica below is as it was, and
    the master may connect again.
    """
    click.echo(f"The substitute VM of {scenario} will be cut off and removed, with all that it wrote since it started.")
    if not yes:
        if not sys.stdin.isatty():
            cause, hint = "there is no terminal to ask on", f"rha discard {scenario} --yes"
            raise StateError("not confirmed; nothing was changed", cause=cause, hint=hint)
        if not click.confirm("Remove it now?", default=False):
            raise StateError("not confirmed; nothing was changed")
    answer = local.call(local.RUN_DIR / "appliance.sock", "discard", timeout=None, scenario=scenario)
    click.echo(answer["sentence"])
