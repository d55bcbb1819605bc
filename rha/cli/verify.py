"""rha verify"""

from __future__ import annotations

from typing import Any

import click

from rha.control import local
from rha.errors import Exit
from rha.units import show_bytes

MAX_RANGES_SHOWN = 20


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="The daemon's answer as JSON.")
def command(scenario: str, as_json: bool) -> int:
    """Compare the master's disks with the appliance's images.

    Run it on the master, best while nothing writes. Reads every disk of SCENARIO once; changes nothing.
    Exit code 0: equal; 1: different.
    """
    answer = local.call(local.RUN_DIR / f"engine-{scenario}.sock", "verify", timeout=None)
    if as_json:
        import json

        click.echo(json.dumps(answer, allow_nan=False))
    else:
        click.echo("\n".join(described(answer)))
    return Exit.OK if answer["equal"] else Exit.DIFFERENT


def described(answer: dict[str, Any]) -> list[str]:
    """The answer as lines. Offsets and lengths of differing ranges are bytes."""
    differing = answer["differing"]
    lines = ["equal" if answer["equal"] else "DIFFERENT", f"  {answer['sentence']}"]
    lines.append(f"  compared {show_bytes(answer['compared_bytes'])}")
    if answer["busy_ranges"]:
        lines.append(f"  {answer['busy_ranges']} ranges were written meanwhile and could not be judged")
    lines += [
        f"  disk {range_['disk']}: offset {range_['offset']}, {range_['bytes']} bytes"
        for range_ in differing[:MAX_RANGES_SHOWN]
    ]
    if len(differing) > MAX_RANGES_SHOWN:
        lines.append(f"  … and {len(differing) - MAX_RANGES_SHOWN} more ranges")
    return lines
