"""rha switchback"""

from __future__ import annotations

import click

from rha.cli import ask, moving
from rha.control import local
from rha.report import Report


@click.command()
@click.argument("scenario")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--reason", default="", help="For the history.")
@click.option("--force", is_flag=True, help="Cut the guest's power if it does not shut down; accept a long pause.")
@click.option("--verify", type=click.Choice(["last", "all"]), default="last", show_default=True)
@click.option("--overwrite-master", is_flag=True, help="Give up what the master wrote alone (rha split).")
@click.option("--abort", is_flag=True, help="Break off the one that is at work; the substitute serves on.")
def command(
    scenario: str,
    yes: bool,
    dry_run: bool,
    reason: str,
    force: bool,
    verify: str,
    overwrite_master: bool,
    abort: bool,
) -> None:
    """Bring the substitute's disks home to the repaired master.

    Run it on the appliance, while `rha receive` runs on the master. The substitute serves on while its disks are
    copied; then comes a short pause, and the master may boot. What fails before that is taken back: the substitute
    serves on. --verify all compares every block in the pause, which takes as long as reading the disks.
    """
    if abort:
        for line in moving.outcome(
            ask.appliance("abort_switchback", scenario=scenario, person=ask.person(), force=force)
        ):
            click.echo(line)
        return
    socket = local.RUN_DIR / "appliance.sock"
    before = moving.report_of(socket, scenario)
    moving.show(before)
    click.echo("\n" + consequence(before, force=force, overwrite=overwrite_master))
    if not dry_run and not yes:
        moving.confirm(f"Switch {scenario} back now?", f"rha switchback {scenario} --yes")
    words = {
        "force": force,
        "dry_run": dry_run,
        "verify_all": verify == "all",
        "overwrite": overwrite_master,
        "person": ask.person(),
        "reason": reason,
    }
    moving.act(socket, "switchback", scenario=scenario, **words)


def consequence(report: Report, *, force: bool, overwrite: bool = False) -> str:
    """What a switchback would do now, in words."""
    receiver = report.back.receiver if report.back else ""
    lines = [
        f"The disks of {report.scenario} on {receiver or 'the master (no receiver is connected)'} become what its "
        "substitute has; then the substitute is shut down and removed.",
        "Nobody serves from then until the master has booted.",
    ]
    if force:
        lines.append("--force: a guest that does not shut down loses its power, and the pause may be long.")
    if overwrite:
        lines.append("--overwrite-master: WHAT THE MASTER WROTE ALONE IS LOST, unless you have saved its disks.")
    return "\n".join(lines)
