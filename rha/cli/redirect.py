"""rha redirect"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rha.errors import ConfigError, StateError
from rha.redirect.base import Act, Place, Side
from rha.scenario import Scenario

STORE = Path("/var/lib/rha")
_CONSEQUENCES = {
    ("apply", "replica"): "Clients of {} will be led to this appliance's side.",
    ("revert", "replica"): "Clients of {} will be led back to the master.",
    ("apply", "master"): "This master will give up what clients of {} know it by.",
    ("revert", "master"): "This master will take back what clients of {} know it by.",
}


@click.group()
def command() -> None:
    """Lead clients to the substitute, or back.

    SCENARIO is a scenario's file, or on the appliance its name. `rha failover` and `rha discard` do this by themselves;
    these commands are for looking, and for what was left half done.
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    sides, store_help = click.Choice(["replica", "master"]), "The appliance's store; on a master, its state."
    path = click.Path(path_type=Path)
    function = click.option("--side", type=sides, default="replica", help="Which side this host is.")(function)
    function = click.option("--store", type=path, default=STORE, show_default=True, help=store_help)(function)
    return click.argument("scenario")(function)


@command.command()
@_options
def check(scenario: str, side: Side, store: Path) -> None:
    """Would apply succeed? Changes nothing."""
    from rha.redirect import run

    loaded = _load(scenario, store)
    _say(run.check(loaded.redirect, _place(loaded, side, store)))


@command.command()
@_options
def verify(scenario: str, side: Side, store: Path) -> None:
    """Are clients really led to this side? Asks where they ask."""
    from rha.redirect import run

    loaded = _load(scenario, store)
    _say(run.verify(loaded.redirect, _place(loaded, side, store)))


@command.command()
@_options
@click.option("--dry-run", is_flag=True, help="Check, and say what would be done; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def apply(scenario: str, side: Side, store: Path, dry_run: bool, yes: bool) -> None:
    """Lead clients to this side (on the master: give up)."""
    from rha.redirect import run

    loaded = _load(scenario, store)
    place = _place(loaded, side, store)
    _show(loaded, place, Act.APPLY)
    if dry_run:
        _say(run.check(loaded.redirect, place))
        return
    _confirm(Act.APPLY, loaded, side, yes=yes)
    run.apply(loaded.redirect, place, click.echo)
    click.echo("redirections applied")


@command.command()
@_options
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--forget", is_flag=True, help="Give up what cannot be reverted: show it, forget it, change nothing.")
def revert(scenario: str, side: Side, store: Path, dry_run: bool, yes: bool, forget: bool) -> None:
    """Lead clients back (on the master: take back)."""
    from rha.redirect import run

    loaded = _load(scenario, store)
    place = _place(loaded, side, store)
    _show(loaded, place, Act.REVERT)
    if dry_run:
        return
    _confirm(Act.REVERT, loaded, side, yes=yes)
    if forget:
        _say(run.forget(place))
        return
    run.revert(place, click.echo)
    click.echo("nothing is redirected")


def _load(scenario: str, store: Path) -> Scenario:
    """From a file, or as the master has told the appliance. Raises ConfigError."""
    from rha import scenario_check
    from rha.appliance import catalog

    if "/" in scenario or scenario.endswith(".toml"):
        return scenario_check.load(Path(scenario))
    found = catalog.load_scenario(store / scenario)
    if found is None:
        cause = f"{store / scenario} does not know it, and it is no path of a file"
        raise ConfigError(f"there is no scenario {scenario!r}", cause=cause, hint="rha status; or ./FILE.toml")
    return found


def _place(scenario: Scenario, side: Side, store: Path) -> Place:
    from rha.redirect.base import master_place, replica_place

    if side == "master":
        return master_place(scenario.name, store / "engine" / scenario.name)
    return replica_place(scenario.name, store / scenario.name)


def _show(scenario: Scenario, place: Place, act: Act) -> None:
    """The state before, and the steps."""
    from rha.redirect import run

    past = run.standing(place)
    click.echo(f"{scenario.name}, {place.side}: {past.sentence() if past else 'nothing is redirected'}")
    for number, sentence in enumerate(run.plan(scenario.redirect, place, act), 1):
        click.echo(f"  {number}. {sentence}")


def _confirm(act: Act, scenario: Scenario, side: Side, *, yes: bool) -> None:
    click.echo(_CONSEQUENCES[act.value, side].format(scenario.name))
    if yes:
        return
    if not sys.stdin.isatty():
        hint = f"rha redirect {act} {scenario.name} --side {side} --yes"
        raise StateError("not confirmed; nothing was changed", cause="there is no terminal to ask on", hint=hint)
    if not click.confirm(f"{str(act).capitalize()} now?", default=False):
        raise StateError("not confirmed; nothing was changed")


def _say(sentences: list[str]) -> None:
    for sentence in sentences:
        click.echo(sentence)
