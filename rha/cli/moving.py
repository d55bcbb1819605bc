"""What the verbs that move a service share: the state before and after, the question, the wait with its progress."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from rha import statusview
from rha.cli import ask
from rha.control import local
from rha.errors import RhaError, StateError
from rha.report import Report

REPEAT_SECONDS = 5.0  # figures alone are shown that often


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
    for line in outcome(ask.accompanied(verb, _Follower(socket, words["scenario"]).look, **words)):
        click.echo(line)
    if not words.get("dry_run"):
        click.echo()
        show(report_of(socket, words["scenario"]))


class _Follower:
    """Prints where the act stands, whenever that is something else; figures alone only now and then."""

    def __init__(self, socket: Path, scenario: str) -> None:
        self._socket, self._scenario = socket, scenario
        self._shown, self._at = ("", ""), 0.0

    def look(self) -> None:
        said = _progress(self._socket, self._scenario)
        if said[0] != self._shown[0] or (said != self._shown and time.monotonic() - self._at > REPEAT_SECONDS):
            self._shown, self._at = said, time.monotonic()
            click.echo(f"{time.strftime('%H:%M:%S')}  {'; '.join(filter(None, said))}")


def _progress(socket: Path, scenario: str) -> tuple[str, str]:
    """Where it stands, and figures that change all the time."""
    try:
        report = report_of(socket, scenario)
    except RhaError as error:  # the act's own answer decides; a missed look is only said
        return f"no progress known: {error.what}", ""
    return progress_line(report), statusview.show_return(report.back) if report.back else ""


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
