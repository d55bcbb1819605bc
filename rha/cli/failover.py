"""rha failover"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from rha import statusview
from rha.control import local
from rha.errors import RhaError, StateError
from rha.report import Report

POLL_SECONDS = 0.5
REPEAT_SECONDS = 5.0  # figures alone are shown that often


@click.command()
@click.argument("scenario")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--force", is_flag=True, help="Overrule the appliance's objections.")
def command(scenario: str, yes: bool, dry_run: bool, force: bool) -> None:
    """The master is dead: start its substitute VM now.

    Run it on the appliance. Shows the state first and asks.
    """
    socket = local.RUN_DIR / "appliance.sock"
    before = report_of(socket, scenario)
    now = time.time()
    click.echo(statusview.render([statusview.fresh_or_unknown(before, now)], now, colour=sys.stdout.isatty()))
    click.echo("\n" + consequence(before, force=force))
    if not dry_run and not yes:
        _confirm(scenario)
    words = {"scenario": scenario, "force": force, "dry_run": dry_run}
    for line in outcome(accompanied(socket, "failover", words)):
        click.echo(line)


def report_of(socket: Path, scenario: str) -> Report:
    """The appliance's report of a scenario.

    Raises StateError when the appliance does not have it.
    """
    reports = msgspec.convert(local.call(socket, "status"), list[Report])
    for report in reports:
        if report.scenario == scenario:
            return report
    known = ", ".join(report.scenario for report in reports) or "none"
    raise StateError(f"the appliance has no scenario {scenario!r}", cause=f"it has: {known}", hint="rha status")


def consequence(report: Report, *, force: bool) -> str:
    """What a failover would do now, in words."""
    lines = [f"A substitute VM of {report.scenario} will start from the replica and serve in the master's place."]
    if report.consistent is None:
        lines.append("There is no consistent point: the VM may not boot.")
    else:
        lines.append("Writes that the master made after the consistent point above are not in it.")
    if report.connected:
        lines.append("THE MASTER IS CONNECTED: if it still serves, two will serve at once and their data will part.")
    else:
        lines.append("Make sure that the master is off: two that serve at once make data that nobody can join again.")
    if force:
        lines.append("--force: the appliance's own objections are overruled.")
    return "\n".join(lines)


def _confirm(scenario: str) -> None:
    if not sys.stdin.isatty():
        hint = f"rha failover {scenario} --yes"
        raise StateError("not confirmed; nothing was changed", cause="there is no terminal to ask on", hint=hint)
    if not click.confirm(f"Fail over {scenario} now?", default=False):
        raise StateError("not confirmed; nothing was changed")


def accompanied(socket: Path, verb: str, words: dict[str, Any]) -> Any:
    """The answer to a verb; while the appliance works, each new state is printed.

    Raises what the appliance answers, or NetworkError with Exit.UNKNOWN when it hangs up before it has answered.
    """
    result: list[Any] = []
    failure: list[RhaError] = []

    def ask() -> None:
        try:
            result.append(local.call(socket, verb, timeout=None, **words))
        except RhaError as error:
            failure.append(error)

    worker = threading.Thread(target=ask, name=verb, daemon=True)
    worker.start()
    shown, at = ("", ""), 0.0
    while worker.is_alive():
        worker.join(POLL_SECONDS)
        said = _progress(socket, words["scenario"])
        if said[0] != shown[0] or (said != shown and time.monotonic() - at > REPEAT_SECONDS):
            shown, at = said, time.monotonic()
            click.echo(f"{time.strftime('%H:%M:%S')}  {'; '.join(filter(None, said))}")
    if failure:
        raise failure[0]
    return result[0]


def _progress(socket: Path, scenario: str) -> tuple[str, str]:
    """Where it stands, and figures that change all the time."""
    try:
        report = report_of(socket, scenario)
    except RhaError as error:  # the act's own answer decides; a missed look is only said
        return f"no progress known: {error.what}", ""
    return progress_line(report), statusview.show_return(report.back) if report.back else ""


def progress_line(report: Report) -> str:
    """Where a failover stands."""
    vm = f"; VM {report.vm.domain} {report.vm.state}" if report.vm else ""
    return f"{report.state}: {report.why}{vm}"


def outcome(answer: object) -> list[str]:
    """The answer as lines: its `steps` (what would be, or was, done) and its `sentence`."""
    if not isinstance(answer, dict):
        return [] if answer is None else [str(answer)]
    steps = [f"  {number}. {step}" for number, step in enumerate(answer.get("steps", []), 1)]
    return [*steps, *([answer["sentence"]] if "sentence" in answer else [])]
