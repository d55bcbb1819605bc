"""rha doctor"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from rha.doctor import check
from rha.errors import Exit


@click.command()
@click.option("--role", type=click.Choice(["master", "appliance"]), default="master", show_default=True)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/rha"),
    show_default=True,
    help="Appliance: where journals and images will be.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list of findings.")
def command(role: str, store: Path, as_json: bool) -> int:
    """Is this host fit to be a master, or an appliance?

    Looks, and changes nothing. Exit code 0: fit, perhaps with warnings; 1: there is a fault.
    """
    findings = check.run(_checks(role, store))
    if as_json:
        click.echo(msgspec.json.encode(findings).decode())
    else:
        click.echo(check.table(findings))
    return Exit.DIFFERENT if check.worst(findings) == "fault" else Exit.OK


def _checks(role: str, store: Path) -> list[check.Check]:
    if role == "master":
        from rha.doctor import master

        return master.checks()
    from rha.doctor import appliance

    return appliance.checks(store)
