"""rha diff"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from rha import pointsview
from rha.cli import ask
from rha.filediff import changed_files, shown


@click.command()
@click.argument("scenario")
@click.argument("point")
@click.argument("other", default="now")
@click.option("--files", is_flag=True, help="Files instead of ranges of the disks, where file systems can be read.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def command(scenario: str, point: str, other: str, files: bool, as_json: bool) -> None:
    """Show what differs between two points.

    Run it on the appliance. Each point is an LSN, a time, a duration (so long ago), a bookmark's name, or now.
    """
    answer = ask.appliance("changed", scenario=scenario, at=point, to=other)
    if files:
        first, second = (str(answer[end][0]) for end in ("from", "to"))
        answer["files"] = _files(scenario, first, second)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for line in pointsview.difference(answer):
        click.echo(line)
    for sign, path in answer.get("files", []):
        click.echo(f"  {sign} {shown(path)}")


def _files(scenario: str, first: str, second: str) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="rha-diff-") as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        before.mkdir()
        after.mkdir()
        with ask.opened(scenario, first, str(before)), ask.opened(scenario, second, str(after)):
            return list(changed_files(before, after))
