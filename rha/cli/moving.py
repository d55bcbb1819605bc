"""What the verbs that move a service share: the state before and after, the question, the wait with its progress."""

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


def show(report: Report) -> None:
    """As `rha status` does."""
    now = time.time()
    click.echo(statusview.render([statusview.fresh_or_unknown(report, now)], now, colour=sys.stdout.isatty()))


def confirm(question: str, again: str) -> None:
    """Raises StateError unless the answer is yes. `again`: the command that does not ask."""
    if not sys.stdin.isatty():
        raise StateError("not confirmed; nothing was changed", cause="there is no terminal to ask on", hint=again)
    if not click.confirm(question, default=False):
        raise StateError("not confirmed; nothing was changed")


def act(socket: Path, verb: str, **words: Any) -> None:
    """Asks for it and waits, prints each new state meanwhile, then what was done and the state after.

    Raises what the appliance answers, or NetworkError with Exit.UNKNOWN when it hangs up before it has answered.
    """
    for line in outcome(_accompanied(socket, verb, words)):
        click.echo(line)
    if not words.get("dry_run"):
        click.echo()
        show(report_of(socket, words["scenario"]))


def _accompanied(socket: Path, verb: str, words: dict[str, Any]) -> Any:
    result: list[Any] = []
    failure: list[RhaError] = []

    def ask() -> None:
        try:
            result.append(local.call(socket, verb, timeout=None, **words))
        except RhaError as error:
            failure.append(error)

    worker = threading.Thread(target=ask, name=verb, daemon=True)
    worker.start()
    shown = ""
    while worker.is_alive():
        worker.join(POLL_SECONDS)
        shown = _progress(socket, words["scenario"], shown)
    if failure:
        raise failure[0]
    return result[0]


def _progress(socket: Path, scenario: str, shown: str) -> str:
    """Prints the scenario's state when it is another than `shown`; returns the one that stands there now."""
    try:
        line = progress_line(report_of(socket, scenario))
    except RhaError as error:  # the act's own answer decides; a missed look is only said
        line = f"no progress known: {error.what}"
    if line != shown:
        click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
    return line


def progress_line(report: Report) -> str:
    """Where a switch stands."""
    vm = f"; VM {report.vm.domain} {report.vm.state}" if report.vm else ""
    return f"{report.state}: {report.why}{vm}"


def outcome(answer: object) -> list[str]:
    """The answer as lines: its `steps` (what would be, or was, done) and its `sentence`."""
    if not isinstance(answer, dict):
        return [] if answer is None else [str(answer)]
    steps = [f"  {number}. {step}" for number, step in enumerate(answer.get("steps", []), 1)]
    return [*steps, *([answer["sentence"]] if "sentence" in answer else [])]
