"""Fencing by a program of the administrator: a switched socket, a cloud's API, a storage array's port.

`RHA_ACT=cut`: exit code 0 says that the master is certainly off; any other, or a killed program, that it may serve.
`RHA_ACT=check`: could it be done now? See docs/fence.md.
"""

from __future__ import annotations

from rha.errors import StateError
from rha.fence.base import Fence, FencePlace
from rha.program import Program
from rha.redirect.base import Deadline
from rha.scenario import FenceScript
from rha.units import show_seconds


class ScriptFence(Fence):
    kind = "script"

    def __init__(self, table: FenceScript, place: FencePlace, number: int) -> None:
        self._table, self._place, self.limit = table, place, table.limit
        self._program = Program(place.scripts, table.run, table.user, place.logs / f"{number}-fence.log")

    def describe(self) -> str:
        return f"cut the master off by {self._program.path}"

    def check(self, deadline: Deadline) -> str:
        """Raises ConfigError, HostError when it cannot be run, StateError when it says no."""
        return self._run("check", deadline)

    def cut(self, deadline: Deadline) -> str:
        """Raises as `check`."""
        return self._run("cut", deadline)

    def _run(self, act: str, deadline: Deadline) -> str:
        self._program.must_be_safe()
        words = {"RHA_SCENARIO": self._place.scenario, "RHA_ACT": act, "RHA_LIMIT": f"{self.limit:g}"}
        ended = self._program.run(words, deadline.pause, deadline.seconds)
        name, hint = self._table.run, f"its output: {self._program.log}"
        if ended.killed:
            raise StateError(f"fence {name} {ended.killed}; it was killed", cause=ended.said, hint=hint)
        if ended.code:
            raise StateError(f"fence {name} failed ({ended.how})", cause=ended.said, hint=hint)
        verb = "has cut the master off" if act == "cut" else "could cut the master off"
        return f"{name} {verb} ({show_seconds(ended.seconds)})"
