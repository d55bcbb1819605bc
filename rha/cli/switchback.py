"""rha switchback"""

from __future__ import annotations

import sys
import time

import click

from rha import statusview
from rha.cli import ask
from rha.cli.failover import accompanied, outcome, report_of
from rha.control import local
from rha.errors import StateError
from rha.report import Report


@click.command()
@click.argument("scenario")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--reason", default="", help="For the history.")
@click.option("--force", is_flag=True, help="Cut the guest's power if it does not shut down; accept a long pause.")
@click.option("--verify", type=click.Choice(["last", "all"]), default="last", show_default=True)
@click.option("--abort", is_flag=True, help="Break off the one that is at work; the substitute serves on.")
def command(scenario: str, yes: bool, dry_run: bool, reason: str, force: bool, verify: str, abort: bool) -> None:
    """Bring the substitute's disks home to the repaired master.

    Run it on the appliance, while `rha receive` runs on the master. The substitute serves on while its disks are
    copied; then comes a short pause, and the master may boot. What fails before that is taken back: the substitute
    serves on. --verify all compares every block in the pause, which takes as long as reading the disks.
    """
    if abort:
        for line in outcome(ask.appliance("abort_switchback", scenario=scenario, person=ask.person(), force=force)):
            click.echo(line)
        return
    socket = local.RUN_DIR / "appliance.sock"
    before, now = report_of(socket, scenario), time.time()
    click.echo(statusview.render([statusview.fresh_or_unknown(before, now)], now, colour=sys.stdout.isatty()))
    click.echo("\n" + consequence(before, force=force))
    if not dry_run and not yes:
        _confirm(scenario)
    words = {"scenario": scenario, "force": force, "dry_run": dry_run, "verify_all": verify == "all"}
    words |= {"person": ask.person(), "reason": reason}
    for line in outcome(accompanied(socket, "switchback", words)):
        click.echo(line)


def consequence(report: Report, *, force: bool) -> str:
    """What a switchback would do now, in words."""
    receiver = report.back.receiver if report.back else ""
    lines = [
        f"The disks of {report.scenario} on {receiver or 'the master (no receiver is connected)'} become what its "
        "substitute has; then the substitute is shut down and removed.",
        "Nobody serves from then until the master has booted.",
    ]
    if force:
        lines.append("--force: a guest that does not shut down loses its power, and the pause may be long.")
    return "\n".join(lines)


def _confirm(scenario: str) -> None:
    if not sys.stdin.isatty():
        hint = f"rha switchback {scenario} --yes"
        raise StateError("not confirmed; nothing was changed", cause="there is no terminal to ask on", hint=hint)
    if not click.confirm(f"Switch {scenario} back now?", default=False):
        raise StateError("not confirmed; nothing was changed")
