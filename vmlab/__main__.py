"""`python -m vmlab [SCENE [GROUP…]]`: stacks, log-writes, life, reboot, appliance, or all of them. A table of each,
and build/vmlab.json.

Exit code 0: nothing was found against rha; 1: something was; else `rha.errors.Exit`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from rha.errors import ConfigError, HostError, RhaError
from vmlab import BUILD, appliance, life, log_writes, reboot, stacks

RESULT = BUILD / "vmlab.json"
FINE = ("ok", "equal", "refused")
INTERRUPTED = 128 + 2  # as a shell reports SIGINT

Scene = Callable[[Sequence[str]], tuple[dict[str, str], bool]]


def _stacks(groups: Sequence[str]) -> tuple[dict[str, str], bool]:
    if unknown := set(groups) - set(stacks.GROUPS):
        raise ConfigError(f"no such group: {', '.join(unknown)}", hint=f"one of {', '.join(stacks.GROUPS)}")
    return _judged(stacks.run(groups=tuple(groups) or tuple(stacks.GROUPS)))


def _log_writes(_: Sequence[str]) -> tuple[dict[str, str], bool]:
    verdict = log_writes.run()
    return verdict.table(), not verdict.failures


def _appliance(words: Sequence[str]) -> tuple[dict[str, str], bool]:
    tally = appliance.run_scene(*appliance.words_of(words))
    return tally.table(), not tally.failures


def _judged(found: dict[str, str]) -> tuple[dict[str, str], bool]:
    return found, all(result.startswith(FINE) for result in found.values())


SCENES: dict[str, Scene] = {
    "stacks": _stacks,
    "log-writes": _log_writes,
    "life": lambda _: _judged(life.run()),
    "reboot": lambda _: _judged(reboot.run()),
    "appliance": _appliance,
}


def main(words: Sequence[str]) -> int:
    """See the module."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # machines and folders are cleaned up on the way out
    try:
        if os.geteuid() != 0:
            raise HostError("the lab needs root", cause="it builds an image and namespaces", hint="sudo make vmlab")
        if words and words[0] not in SCENES:
            raise ConfigError(f"no scene is called {words[0]}", hint=f"one of {', '.join(SCENES)}")
        return _play({words[0]: SCENES[words[0]]} if words else SCENES, words[1:])
    except RhaError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted; everything is cleaned up", file=sys.stderr)
        return INTERRUPTED


def _play(scenes: dict[str, Scene], words: Sequence[str]) -> int:
    results, well = {}, True
    for name, scene in scenes.items():
        results[name], is_fine = scene(words)
        well = well and is_fine
        width = max(map(len, results[name]))
        print("\n".join(f"{label:<{width}}  {result}" for label, result in results[name].items()), flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    return int(not well)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
