"""`python -m demo`: the whole story, build/demo.json, and an exit code that says whether the promise was kept."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack

from demo.alone import INTERRUPTED, alone, interrupt, on_signals
from demo.judge import Verdict
from demo.narrator import Narrator
from demo.result import Result
from demo.setting import ROOT, Setting
from demo.story import Story
from rha.errors import Exit, HostError, RhaError
from rha.units import show_seconds

RESULT = ROOT / "build" / "demo.json"


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
    with alone(setting.logs / "lock", "demo"), ExitStack() as stack:
        story = Story(setting, narrator, stack)
        on_signals(interrupt)
        try:
            verdict = story.tell()
        finally:
            on_signals(signal.SIG_IGN)  # what follows is the cleaning up: nothing interrupts it
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


if __name__ == "__main__":
    sys.exit(main())
