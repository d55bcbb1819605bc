"""The holder: a process that brings one application to a clean state and holds it there.

    python -m rha.app.holder        standard input: a task, as one line of JSON; standard output: one line for each word

Of its own, for three reasons: it connects as another user of the system; a server that does not answer hangs nobody but
it; and it lets go when its time is over or its standard input ends, so that an engine that is killed leaves no
application stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from rha.app.base import App, Where
from rha.app.kinds import KINDS
from rha.errors import Exit, RhaError, StateError
from rha.redirect.base import Deadline
from rha.scenario import QuiesceApp, QuiesceScript, decode_unit
from rha.units import show_seconds

GRACE_SECONDS = 5.0  # behind the limit, before a holder whose server does not answer ends
LET_GO_SECONDS = 60.0  # of a script's second run: an application is not left stopped for a limit's sake


class Task(msgspec.Struct, kw_only=True):
    """What is to be held, and the paths of rha.app.base.Where."""

    table: QuiesceApp
    scenario: str
    logs: str
    scripts: str


class Word(msgspec.Struct, kw_only=True):
    """What a holder says: `said` what it has done, or the refusal in the other fields."""

    said: str = ""
    what: str = ""
    cause: str = ""
    hint: str = ""
    code: int = 0

    def must_be_good(self) -> str:
        """Raises RhaError."""
        if self.what:
            raise RhaError(self.what, cause=self.cause, hint=self.hint, code=Exit(self.code))
        return self.said


def hold(app: App, limit: float) -> None:
    """Everything that a holder does."""
    deadline = Deadline(limit)
    word = _word(lambda: app.hold(deadline))
    say(word)
    in_time = not word.what and _is_told(deadline)
    last = _word(lambda: _let_go(app, limit))
    if not (word.what or last.what or in_time):
        what = f"what was held was let go after {show_seconds(limit)}"
        last = Word(what=what, cause="its time was over", hint="a longer `limit` in the scenario", code=Exit.STATE)
    say(last)


def _let_go(app: App, limit: float) -> str:
    app.let_go(Deadline(max(limit, LET_GO_SECONDS)))
    return "let go"


def _is_told(deadline: Deadline) -> bool:
    with contextlib.suppress(StateError):
        return bool(select.select([0], [], [], deadline.left())[0]) and not deadline.is_over
    return False


def _word(act: Callable[[], str]) -> Word:
    try:
        return Word(said=act())
    except RhaError as error:
        return Word(what=error.what, cause=error.cause, hint=error.hint, code=error.code)
    except Exception as error:  # noqa: BLE001 - a bug: told, not lost with this process
        return Word(what=f"bug in a holder: {error!r}", code=Exit.UNKNOWN)


def say(word: Word) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, msgspec.json.encode(word) + b"\n")


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # who wants it to let go ends its standard input
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task, dec_hook=decode_unit)
    if not isinstance(task.table, QuiesceScript):  # which ends by itself, and must then be run once more
        signal.setitimer(signal.ITIMER_REAL, task.table.limit + GRACE_SECONDS)
    where = Where(task.scenario, Path(task.logs), Path(task.scripts))
    hold(KINDS[type(task.table)](task.table, where), task.table.limit)


if __name__ == "__main__":
    main()
