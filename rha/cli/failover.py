"""rha failover"""

from __future__ import annotations

import click

from rha.cli import ask, moving
from rha.control import local
from rha.report import Report


@click.command()
@click.argument("scenario")
@click.option("--at", metavar="POINT", default="", help="From an earlier point: LSN, time, duration (ago), bookmark.")
@click.option("--reason", default="", help="For the history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--force", is_flag=True, help="Overrule the appliance's objections.")
def command(scenario: str, at: str, reason: str, yes: bool, dry_run: bool, force: bool) -> None:
    """The master is dead: start its substitute VM now.

    Run it on the appliance. Shows the state first and asks. A master that lives hands over by rha switchover.
    """
    socket = local.RUN_DIR / "appliance.sock"
    before = moving.report_of(socket, scenario)
    moving.show(before)
    click.echo("\n" + consequence(before, force=force, at=at))
    if not dry_run and not yes:
        moving.confirm(f"Fail over {scenario} now?", f"rha failover {scenario} --yes")
    words = {"force": force, "dry_run": dry_run, "person": ask.person(), "reason": reason, "at": at}
    moving.act(socket, "failover", scenario=scenario, **words)


def consequence(report: Report, *, force: bool, at: str = "") -> str:
    """What a failover would do now, in words."""
    lines = [f"A substitute VM of {report.scenario} will start from the replica and serve in the master's place."]
    if at:
        lines.append(f"It will show the point {at}: EVERYTHING WRITTEN AFTER IT IS NOT THERE. The replica keeps it.")
    elif report.consistent is None:
        lines.append("There is no consistent point: the VM may not boot.")
    else:
        lines.append("Writes that the master made after the consistent point above are not in it.")
    if report.connected:
        lines.append("THE MASTER IS CONNECTED: if it still serves, two will serve at once and their data will part.")
    else:
        lines.append("Make sure that the master is off: two that serve at once make data that nobody can join again.")
    if force:
        lines.append("--force: the appliance's own objections are overruled.")
    return "\n".join(lines)
