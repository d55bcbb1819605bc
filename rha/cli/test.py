"""rha test"""

from __future__ import annotations

import json
import time

import click

from rha.cli import ask
from rha.cli.moving import report_of
from rha.control import local
from rha.errors import Exit, RhaError
from rha.switch.bootreport import ENDED, PASSED


@click.command()
@click.argument("scenario")
@click.option("--at", default="", metavar="POINT", help="LSN, time, duration (so long ago), bookmark, kept, now.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
@click.option("--keep", is_flag=True, help="Leave the VM running for a look, until --end or the scenario's limit.")
@click.option("--end", "is_end", is_flag=True, help="End the test that runs or is kept.")
@click.option("--reason", default="", help="For the report.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def command(scenario: str, at: str, dry_run: bool, keep: bool, is_end: bool, reason: str, as_json: bool) -> int:
    """Boot a point on an isolated network, check it, throw it away.

    Run it on the appliance. Replication goes on, the replica stays as it is; nobody but the checks reaches the VM, and
    it reaches nobody. Exit code 0: passed; 1: it did not pass, or was asked nothing.
    """
    if dry_run:
        for number, step in enumerate(ask.appliance("test_ahead", scenario=scenario, at=at), 1):
            click.echo(f"  {number}. {step}")
        click.echo("nothing was changed")
        return Exit.OK
    if is_end:
        answer = ask.appliance("end_test", scenario=scenario, person=ask.person())
    else:
        words = {"scenario": scenario, "at": at, "keep": keep, "reason": reason, "person": ask.person()}
        answer = ask.accompanied("test", _Follower(scenario, quiet=as_json).look, **words)
    for line in [json.dumps(answer["report"])] if as_json else [*answer["lines"], f"  report     {answer['place']}"]:
        click.echo(line)
    passed = answer["report"]["outcome"] == PASSED or (is_end and answer["report"]["outcome"] == ENDED)
    return Exit.OK if passed else Exit.DIFFERENT


class _Follower:
    """Prints what the test does now, whenever that is something else."""

    def __init__(self, scenario: str, *, quiet: bool) -> None:
        self._scenario, self._quiet, self._shown = scenario, quiet, ""

    def look(self) -> None:
        if self._quiet:
            return
        try:
            test = report_of(local.RUN_DIR / "appliance.sock", self._scenario).test
        except RhaError:  # the test's own answer decides
            return
        if test and test.running and test.running != self._shown:
            self._shown = test.running
            click.echo(f"{time.strftime('%H:%M:%S')}  {test.running}")
