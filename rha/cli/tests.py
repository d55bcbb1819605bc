"""rha tests"""

from __future__ import annotations

import json

import click
import msgspec

from rha.cli import ask
from rha.switch.bootreport import BootReport, headline, lines


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="All reports as a JSON list, oldest first.")
@click.option("--show", metavar="NAME", help="One report, by its name; last: the newest.")
def command(scenario: str, as_json: bool, show: str | None) -> int:
    """List the test boots of a scenario whose reports are kept.

    Run it on the appliance. They lie in its store, SCENARIO/tests/NAME: report, console log, picture of the screen.
    """
    answer = ask.appliance("tests", scenario=scenario)
    if as_json:
        click.echo(json.dumps(answer))
        return 0
    reports = msgspec.convert(answer, list[BootReport])
    if show:
        reports = reports[-1:] if show == "last" else [report for report in reports if report.folder == show]
        for line in (line for report in reports for line in lines(report)):
            click.echo(line)
        return 0 if reports else 1
    for report in reports:
        click.echo(f"{report.folder}  {headline(report)}")
    if not reports:
        click.echo(f"{scenario} was never tested")
    return 0
