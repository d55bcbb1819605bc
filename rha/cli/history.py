"""rha history"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import click
import msgspec

from rha.control import local
from rha.engine import history
from rha.engine.history import Change
from rha.errors import NetworkError, StateError


@click.command()
@click.argument("scenario")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, oldest first.")
@click.option("-n", "--last", default=50, show_default=True, help="How many changes to show.")
def command(scenario: str, as_json: bool, last: int) -> int:
    """Show how the states of a master's disks changed, and why.

    Asks the engine; when none runs, reads what the last one wrote.
    """
    if "/" in scenario or scenario.startswith("."):
        raise click.BadParameter(f"{scenario!r} is no name of a scenario", param_hint="SCENARIO")
    changes = find(scenario)[-last:]
    if as_json:
        click.echo(msgspec.json.encode(changes).decode())
    else:
        click.echo("\n".join(lines(changes)))
    return 0


def find(scenario: str) -> list[Change]:
    """The changes, oldest first.

    Raises StateError when nothing is known of the scenario.
    """
    try:
        return msgspec.convert(local.call(local.RUN_DIR / f"engine-{scenario}.sock", "history"), list[Change])
    except NetworkError:
        changes = history.read(history.folder_of(scenario))
    if not changes:
        raise StateError(
            f"no history of {scenario}", cause=f"nothing in {history.folder_of(scenario)}", hint="rha status"
        )
    return changes


def lines(changes: Iterable[Change]) -> list[str]:
    """The table, a summary of losses last."""
    found, losses = [], Counter[tuple[str, str]]()
    for change in changes:
        stamp = datetime.fromtimestamp(change.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        more = f"; {change.evidence}" if change.evidence not in change.why else ""
        found.append(f"{stamp}  {change.disk:<12} {change.state:<12} {change.reason}: {change.why}{more}")
        if change.is_loss:
            losses[change.disk, change.reason] += 1
    found += [f"{disk} left write order for {reason}: {count}" for (disk, reason), count in sorted(losses.items())]
    return found
