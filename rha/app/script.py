"""A program of the administrator, before the file systems are frozen and after they are thawed.

`RHA_ACT=hold`: exit code 0 says that the application is in a clean state and stays there; any other is a veto, and by
then the program has undone its own part. `RHA_ACT=let-go` follows each `hold` that ended well or was killed.
"""

from __future__ import annotations

from rha.app.base import App, Where
from rha.errors import StateError
from rha.program import Program
from rha.redirect.base import Deadline
from rha.scenario import QuiesceScript


class Script(App):
    def __init__(self, table: QuiesceScript, where: Where) -> None:
        self._table, self._where = table, where
        self._program = Program(where.scripts, table.run, table.user, where.logs / f"{table.run}.log")
        self._is_held = False

    def hold(self, deadline: Deadline) -> str:
        self._program.must_be_safe()
        self._run("hold", deadline)
        self._is_held = True
        return f"script {self._table.run}"

    def let_go(self, deadline: Deadline) -> None:
        if self._is_held:
            self._is_held = False
            self._run("let-go", deadline)

    def _run(self, act: str, deadline: Deadline) -> None:
        words = {"RHA_SCENARIO": self._where.scenario, "RHA_ACT": act, "RHA_LIMIT": f"{deadline.seconds:g}"}
        ended = self._program.run(words, deadline.pause, deadline.seconds)
        name, hint = self._table.run, f"its output: {self._program.log}"
        if ended.killed:
            self._is_held = act == "hold"
            raise StateError(f"script {name} {ended.killed}; it was killed", cause=ended.said, hint=hint)
        if ended.code:
            verb = "vetoes" if act == "hold" else "failed to let go"
            raise StateError(f"script {name} {verb} ({ended.how})", cause=ended.said, hint=hint)
