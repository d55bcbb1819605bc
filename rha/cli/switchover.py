"""rha switchover"""

from __future__ import annotations

import click

from rha.cli import ask, moving
from rha.control import local
from rha.report import Report


@click.command()
@click.argument("scenario")
@click.option("--reason", default="", help="For the history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
def command(scenario: str, reason: str, yes: bool, dry_run: bool) -> None:
    """The master hands its service over to its substitute VM, and nothing is lost.

    Run it on the appliance. Shows the state first and asks. Until the substitute starts, whatever goes wrong is taken
    back: the master then serves as before.
    """
    socket = local.RUN_DIR / "appliance.sock"
    before = moving.report_of(socket, scenario)
    moving.show(before)
    click.echo("\n" + consequence(before))
    if not dry_run and not yes:
        moving.confirm(f"Switch {scenario} over now?", f"rha switchover {scenario} --yes")
    words = {"dry_run": dry_run, "person": ask.person(), "reason": reason}
    moving.act(socket, "switchover", scenario=scenario, **words)


def consequence(report: Report) -> str:
    """What a switchover would do now, in words."""
    return "\n".join(
        [
            f"The master of {report.scenario} will stop its service, and a substitute VM will serve in its place.",
            "Clients wait from then until the substitute serves. No write is lost.",
            f"To go back: rha discard {report.scenario} loses what the substitute has written by then.",
        ]
    )
