"""rha status"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from rha import statusview
from rha.control import local
from rha.errors import Exit, HostError, RhaError
from rha.report import Report
from rha.statusview import Heard

ANSWER_SECONDS = 2.0
REFRESH_SECONDS = 1.0
_TO_TOP = "\x1b[H\x1b[2J\x1b[3J"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list of reports; with --watch one list per line.")
@click.option("--watch", is_flag=True, help="Ask again every second, until Ctrl-C.")
def command(as_json: bool, watch: bool) -> int:
    """Show what every daemon of this host says.

    Exit code 0: every daemon that should be here answered, whatever it said; 6: one is missing, or there is none. The
    health itself is in the table and in --json (`health`: ok, warning, alarm, unknown).
    """
    heard = once(as_json, clear=watch and sys.stdout.isatty() and not as_json)
    while watch:
        time.sleep(REFRESH_SECONDS)
        heard = once(as_json, clear=sys.stdout.isatty() and not as_json)
    return Exit.OK if heard and not any(one.silence for one in heard) else Exit.NETWORK


def once(as_json: bool, *, clear: bool = False) -> list[Heard]:
    """Asks everyone and prints one picture."""
    heard = listen()
    now = time.time()
    reports = statusview.judge(heard, now)
    if as_json:
        text = msgspec.json.encode(reports).decode()
    else:
        text = statusview.render(reports, now, colour=sys.stdout.isatty())
    click.echo((_TO_TOP if clear else "") + text, color=True)
    sys.stdout.flush()
    return heard


def listen() -> list[Heard]:
    """What each socket of the run directory answers.

    Raises HostError when this user may not ask.
    """
    return [_ask(path) for path in local.sockets(local.RUN_DIR)]


def _ask(path: Path) -> Heard:
    try:
        answer = local.call(path, "status", timeout=ANSWER_SECONDS)
        return Heard(path.stem, msgspec.convert(answer, list[Report]))
    except HostError:
        raise
    except RhaError as error:
        return Heard(path.stem, [], f"{error.what} ({error.cause})" if error.cause else error.what)
    except msgspec.ValidationError as error:
        return Heard(path.stem, [], f"it answers in a form that this rha cannot read ({error})")
