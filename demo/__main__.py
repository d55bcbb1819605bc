"""`python -m demo`: the whole story, build/demo.json, and an exit code that says whether the promise was kept."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from demo.judge import Verdict
from demo.narrator import Narrator
from demo.result import Result
from demo.setting import ROOT, Setting
from demo.story import Story
from rha.errors import Exit, HostError, RhaError, StateError
from rha.units import show_seconds

RESULT = ROOT / "build" / "demo.json"
INTERRUPTED = 128 + 2  # as a shell reports SIGINT


def main() -> int:
    """Exit code 0: nothing promised is missing, and the substitute serves; 1: it is not so; else `rha.errors.Exit`."""
    try:
        return _run(Narrator())
    except RhaError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted; everything is cleaned up", file=sys.stderr)
        return INTERRUPTED


def _run(narrator: Narrator) -> int:
    if os.geteuid() != 0:
        cause = "loop devices, mounts, BPF programs and virtual machines are root's"
        raise HostError("the demo needs root", cause=cause, hint="sudo make demo")
    setting = Setting()
    setting.logs.mkdir(parents=True, exist_ok=True)
    RESULT.unlink(missing_ok=True)
    with _alone(setting.logs / "lock"), ExitStack() as stack:
        story = Story(setting, narrator, stack)
        _on_signals(_interrupt)
        try:
            verdict = story.tell()
        finally:
            _on_signals(signal.SIG_IGN)  # what follows is the cleaning up: nothing interrupts it
            story.result.write(RESULT)
        return _conclude(narrator, verdict, story.result)


def _conclude(narrator: Narrator, verdict: Verdict, result: Result) -> int:
    lost = f"{len(verdict.lost)} lost, all inside the RPO window of {show_seconds(verdict.rpo_seconds)}"
    why = verdict.why_not() or (None if result.verify_equal else "disk and image were not equal at the quiet point")
    if why is None:
        narrator.say(f"{verdict.acknowledged} commits acknowledged, {lost if verdict.lost else 'none lost'}")
        narrator.say("no gaps; every payload and every page checked")
    else:
        narrator.say(f"FAILED: {why}")
    narrator.say(f"measured: {RESULT}")
    return Exit.OK if why is None else Exit.DIFFERENT


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One demo at a time: they share a working directory."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError("a demo is running already", cause=f"{lock} is locked") from error
        yield


def _on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
