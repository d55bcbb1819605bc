"""rha history"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import click
import msgspec

from rha.cli import ask
from rha.control import local
from rha.engine import history
from rha.engine.history import Change
from rha.errors import HostError, NetworkError, StateError
from rha.switch import switches
from rha.switch.switches import Switch


@click.command()
@click.argument("scenario")
@click.option("--switches", "kind", flag_value="switches", help="Only its switches: who, when, why, how long.")
@click.option("--states", "kind", flag_value="states", help="Only the states of its disks.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, oldest first.")
@click.option("-n", "--last", default=50, show_default=True, help="How many of each to show.")
def command(scenario: str, kind: str | None, as_json: bool, last: int) -> int:
    """Show a scenario's switches, or how the states of its disks changed.

    On the appliance the switches: who, when, why, how long each step took. On the master the states: it asks the
    engine; when none runs, it reads what the last one wrote.
    """
    if "/" in scenario or scenario.startswith("."):
        raise click.BadParameter(f"{scenario!r} is no name of a scenario", param_hint="SCENARIO")
    done = moves(scenario) if kind == "switches" or (kind is None and _is_appliance(scenario)) else None
    changes = _changes(scenario, is_wanted=kind == "states" or done is None) if kind != "switches" else None
    if as_json:
        if done is not None and changes is not None:
            raise click.UsageError("this host is appliance and master of it: --switches or --states?")
        click.echo(msgspec.json.encode((done or changes or [])[-last:]).decode())
        return 0
    for line in _shown(done, changes, last):
        click.echo(line)
    return 0


def _is_appliance(scenario: str) -> bool:
    """Is this the host of its appliance?"""
    try:
        reports = local.call(local.RUN_DIR / "appliance.sock", "status")
    except (NetworkError, HostError):
        return False
    return any(report["scenario"] == scenario for report in reports)


def moves(scenario: str) -> list[Switch]:
    """The switches, oldest first. Raises what the appliance answers."""
    return msgspec.convert(ask.appliance("switches", scenario=scenario), list[Switch])


def _changes(scenario: str, *, is_wanted: bool) -> list[Change] | None:
    """None: there are none, and nobody has asked for them."""
    try:
        return find(scenario)
    except StateError:
        if is_wanted:
            raise
        return None


def _shown(done: list[Switch] | None, changes: list[Change] | None, last: int) -> Iterator[str]:
    if done is not None:
        yield from (line for one in done[-last:] for line in switches.lines(one))
        if not done:
            yield "no switches yet"
    if done is not None and changes is not None:
        yield ""
    if changes is not None:
        yield from lines(changes[-last:])


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
