"""rha receive"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType as StackFrame

import click

from rha.errors import Exit, StateError
from rha.units import show_bytes


def _pairs(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, device = word.partition("=")
        if not (name and equals and device):
            raise click.BadParameter(f"{word!r} is not NAME=DEVICE")
        found[name] = device
    return found


@click.command()
@click.option("--scenario", "path", required=True, type=click.Path(path_type=Path), help="The scenario's file (TOML).")
@click.option("--disk", "disks", multiple=True, callback=_pairs, metavar="NAME=DEVICE", help="Instead of the file's.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(path: Path, disks: dict[str, str], yes: bool) -> int:
    """Offer a repaired master's disks to the appliance: they become what the substitute has.

    Run it on the master, from a rescue system or from other disks. The scenario's file and the certificates that it
    names are all it needs. EVERYTHING ON THE DISKS IS OVERWRITTEN as far as it differs. Ends with 0 when they are equal
    and the master may boot; until then it connects again after each break.
    """
    from rha import scenario_check

    scenario = scenario_check.load(path)
    from rha.engine.receiver import Receiver, open_targets

    with ExitStack() as stack:
        targets = open_targets(scenario, disks, stack)
        click.echo(f"These disks will become what the substitute of {scenario.name} has:")
        for target in targets:
            click.echo(f"  {target.name}: {target.path}, {show_bytes(target.bytes)}")
        if not yes:
            _confirm()
        receiver = Receiver(scenario, targets, _say)

        def on_signal(_number: int, _frame: StackFrame | None) -> None:
            receiver.stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        if not receiver.run():
            raise StateError(
                "stopped before everything was here",
                cause="the disks are unfinished: do not boot them",
                code=Exit.UNKNOWN,
            )
    click.echo("the disks are what the substitute had when it was switched off; the master may boot from them")
    return int(Exit.OK)


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
    sys.stdout.flush()


def _confirm() -> None:
    if not sys.stdin.isatty():
        hint = "rha receive … --yes"
        raise StateError("not confirmed; nothing was changed", cause="there is no terminal to ask on", hint=hint)
    if not click.confirm("Overwrite them?", default=False):
        raise StateError("not confirmed; nothing was changed")
