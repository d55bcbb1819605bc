"""`python -m lab [SCENE…]`: the scenes, build/lab.json, and an exit code that says whether every promise was kept.

Exit code 0: it was, in every scene; 1: it was not; else `rha.errors.Exit`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo import hypervisor
from demo.alone import INTERRUPTED, alone, interrupt, on_signals
from demo.narrator import Narrator
from lab import LOGS, REST, RESULT, result
from lab.result import Result
from lab.scenes import SCENES, Scene
from lab.stage import Stage
from rha.errors import ConfigError, Exit, HostError, RhaError, StateError
from rha.units import show_seconds

LOCK = Path("/run/lock/rha-lab")  # the lab's addresses are this host's: one lab at a time


def main(words: Sequence[str]) -> int:
    """See the module."""
    try:
        if os.geteuid() != 0:
            raise HostError(
                "the lab needs root", cause="machines, networks and mounts are root's", hint="sudo make lab"
            )
        if unknown := [word for word in words if word not in SCENES]:
            raise ConfigError(f"no scene is called {unknown[0]}", hint=f"one of {', '.join(SCENES)}")
        LOGS.mkdir(parents=True, exist_ok=True)
        with alone(LOCK, "lab"), ExitStack() as stack:
            stack.enter_context(hypervisor.running(LOGS))
            shutil.rmtree(REST, ignore_errors=True)  # of a run that was killed
            stack.callback(shutil.rmtree, REST, ignore_errors=True)
            return _play(words or list(SCENES), Narrator())
    except RhaError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted; everything is cleaned up", file=sys.stderr)
        return INTERRUPTED


def _play(names: Sequence[str], narrator: Narrator) -> int:
    found: dict[str, Result] = {}
    for name in names:
        found[name] = _play_one(name, SCENES[name], narrator)
        result.write(RESULT, found)
    narrator.say(f"measured: {RESULT}")
    return Exit.OK if all(one.ok for one in found.values()) else Exit.DIFFERENT


def _play_one(name: str, scene: Scene, narrator: Narrator) -> Result:
    """A scene that fails does not keep the others from being played."""
    narrator.say(f"scene {name}: {scene.about}")
    found, begun = Result(), time.monotonic()
    with ExitStack() as stack:
        on_signals(interrupt)
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, scene.limit)
        try:
            scene.play(Stage(name, narrator, stack, guard=scene.guard, store_bytes=scene.store_bytes), found)
            found.ok = not found.why
        except RhaError as error:
            found.why = "; ".join(filter(None, [found.why, str(error).replace("\n", "; ")]))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            on_signals(signal.SIG_IGN)  # what follows is the cleaning up: nothing interrupts it
    on_signals(interrupt)
    found.seconds = time.monotonic() - begun
    narrator.say(f"scene {name}: {'ok' if found.ok else 'FAILED: ' + found.why}, {show_seconds(found.seconds)}")
    return found


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise StateError("the scene took longer than it may")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
