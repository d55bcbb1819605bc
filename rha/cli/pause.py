"""rha pause"""

from __future__ import annotations

import click

from rha.cli import ask
from rha.units import parse_seconds


def _seconds(_context: object, _parameter: object, text: str | None) -> float | None:
    try:
        seconds = None if text is None else parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if seconds is not None and seconds <= 0:
        raise click.BadParameter("must be more than zero")
    return seconds


@click.command()
@click.argument("scenario")
@click.option("--for", "seconds", metavar="TIME", callback=_seconds, help="Ends by itself: 30min, 2h. Else rha resume.")
@click.option("--reason", default="", help="For whoever asks why nothing happens.")
def command(scenario: str, seconds: float | None, reason: str) -> None:
    """Maintenance: the appliance watches and does nothing by itself.

    Run it on the appliance. It says what it would do. Replication goes on; what a person asks for is done. It holds
    over a restart.
    """
    words = {"person": ask.person(), "reason": reason, "seconds": seconds}
    click.echo(ask.appliance("pause", scenario=scenario, **words)["sentence"])
