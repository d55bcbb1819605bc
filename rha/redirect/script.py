"""A program of the administrator, before or after the other redirections.

It runs from one folder that only the administrator can write, without arguments, as a user of its own, in a process
group of its own. Its environment is in docs/redirect.md. Exit code 0 lets things go on; any other stops them: from a
script at "before" that is a veto. It has then undone its own part. One that outlived its limit is killed with its
whole group and run once more with `RHA_ACT=revert`.
"""

from __future__ import annotations

import time

import msgspec

from rha.errors import RhaError, StateError
from rha.program import Program
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences
from rha.scenario import RunScript
from rha.units import show_seconds


class Before(msgspec.Struct):
    """The memory: the script was begun with `RHA_ACT=apply`."""

    begun: float


class Script(Redirection):
    """One script on the side that runs it."""

    type = "script"

    def __init__(self, table: RunScript, place: Place, memory: Memory) -> None:
        self.table, self.place, self._memory = table, place, memory
        self.limit = table.limit
        self.path = place.scripts / table.run
        self.log = memory.path.with_suffix(".log")  # of the last run; the act before the suffix
        self._program = Program(place.scripts, table.run, table.user, self.log)

    def describe(self, act: Act) -> str:
        return f"run {self.path} as {self.table.user}, RHA_ACT={act}"

    def check(self, deadline: Deadline) -> Sentences:
        """Raises ConfigError, HostError when it cannot be run; StateError when its dry run says no."""
        self._program.must_be_safe()
        user = self._program.user()
        if not self.table.dry_run:
            return [f"{self.path} can be run as {user.pw_name}"]
        return self._run(Act.APPLY, deadline, is_dry=True)

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises StateError when it vetoes, fails, or is killed."""
        self._program.must_be_safe()
        self._memory.save(Before(time.time()))
        try:
            said = self._run(Act.APPLY, deadline)
        except _Killed as error:
            raise self._taken_back(error) from error
        except RhaError:
            self._memory.clear()  # by contract it has undone its own part
            raise
        return said

    def revert(self, deadline: Deadline) -> Sentences:
        if self._memory.load(Before) is None:
            return [f"{self.table.run}: was not run"]
        self._program.must_be_safe()
        said = self._run(Act.REVERT, deadline)
        self._memory.clear()
        return said

    def verify(self, deadline: Deadline) -> Sentences:
        return [f"{self.table.run}: its exit code was its word"]

    def _taken_back(self, error: _Killed) -> RhaError:
        try:
            self._run(Act.REVERT, Deadline(self.limit))
        except RhaError as worse:
            return StateError(error.what, cause=f"{error.cause}; NOT REVERTED: {worse.what}", hint=error.hint)
        self._memory.clear()
        return StateError(error.what, cause=f"{error.cause}; then run with RHA_ACT=revert", hint=error.hint)

    def _run(self, act: Act, deadline: Deadline, *, is_dry: bool = False) -> Sentences:
        self.log = self._memory.path.with_suffix(f".{'dry-run' if is_dry else act}.log")
        self._program.log = self.log
        ended = self._program.run(self._words(act, is_dry=is_dry), deadline.pause, deadline.seconds)
        name, hint = self.table.run, f"its output: {self.log}"
        if ended.killed:
            raise _Killed(f"script {name} {ended.killed}; it was killed", cause=ended.said, hint=hint)
        if ended.code:
            verb = "vetoes" if self.table.at == "before" and act is Act.APPLY else "failed"
            raise StateError(f"script {name} {verb} ({ended.how})", cause=ended.said, hint=hint)
        dry = " (dry run)" if is_dry else ""
        return [f"{name}{dry}: {act}, done in {show_seconds(ended.seconds)}; its output: {self.log}"]

    def _words(self, act: Act, *, is_dry: bool) -> dict[str, str]:
        return {
            "RHA_SCENARIO": self.place.scenario,
            "RHA_SIDE": self.place.side,
            "RHA_ACT": str(act),
            "RHA_AT": self.table.at,
            "RHA_DRY_RUN": "1" if is_dry else "0",
            "RHA_LIMIT": f"{self.limit:g}",
        }


class _Killed(StateError):
    pass
