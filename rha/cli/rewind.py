"""rha rewind"""

from __future__ import annotations

import click

from rha import pointsview
from rha.cli import ask, moving
from rha.units import show_bytes


@click.command()
@click.argument("scenario")
@click.option("--to", "point", required=True, help="LSN, time, duration (so long ago), bookmark.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
def command(scenario: str, point: str, yes: bool, dry_run: bool) -> None:
    """Take the replica itself back to a point.

    Run it on the appliance, with the engine on the master stopped. Shows what would change and asks. A failover then
    serves the point. The state before is a point too: a rewind can be rewound.
    """
    found = ask.appliance("rewind_size", scenario=scenario, at=point)
    click.echo(f"The replica of {scenario} will be taken back to {pointsview.place(found['lsn'], found['time'])}.")
    for disk, size in found["bytes"].items():
        click.echo(f"  {disk}: up to {show_bytes(size)} will be written")
    click.echo("When the master connects again it brings the replica back to what its own disks are.")
    if dry_run:
        return
    if not yes:
        moving.confirm("Rewind it now?", f"rha rewind {scenario} --to {point} --yes")
    # By its LSN: what a duration means has moved on while a person thought about it.
    done = ask.appliance("rewind", scenario=scenario, at=str(found["lsn"]), by=ask.person())
    click.echo(f"{scenario} is at {pointsview.place(done['lsn'], done['time'])}; this state is LSN {done['now']}")
    click.echo(f"undo it with: rha rewind {scenario} --to {done['before']}")
