"""Does a program of the administrator say that the service answers? Exit code 0: yes.

It is run from the scripts' folder of whoever asks, never from a path that the scenario names, and by default as nobody.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rha import program
from rha.errors import RhaError
from rha.program import Program
from rha.redirect.base import Deadline
from rha.scenario import Check
from rha.watch.base import NoAnswer


def attempt(
    check: Check, timeout: float, folder: Path = program.FOLDER, more: Mapping[str, str] = MappingProxyType({})
) -> float:
    """Seconds it ran. `more`: words of its environment besides those of every check.

    Raises NoAnswer, also when it cannot be run: nobody has answered then.
    """
    with tempfile.TemporaryDirectory(prefix="rha-check-") as place:
        one = Program(folder, check.address, check.user, Path(place) / "output")
        words = {"RHA_ACT": "check", "RHA_LIMIT": f"{timeout:g}", **more}
        try:
            one.must_be_safe()
            ended = one.run(words, Deadline(timeout).pause, timeout)
        except RhaError as error:
            raise NoAnswer(f"{error.what}: {error.cause}" if error.cause else error.what) from error
    if ended.killed:
        raise NoAnswer(f"{ended.killed}; it was killed")
    if ended.code:
        raise NoAnswer(f"{ended.how}; {ended.said}")
    return ended.seconds
