"""An application that is held, seen from the engine: its holder is begun, asked, and told to let go."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from rha.app.base import Where
from rha.app.holder import GRACE_SECONDS, LET_GO_SECONDS, Task, Word
from rha.decoding import NotReadable, from_json
from rha.errors import HostError, StateError
from rha.scenario import QuiesceApp, QuiesceScript, encode_unit

MARGIN_SECONDS = 5.0  # for a holder to start, and to end
MAX_WORD_BYTES = 64 << 10  # of an answer
RANK = {"script": 0, "postgresql": 1, "mariadb": 2}


def in_order(tables: list[QuiesceApp]) -> list[QuiesceApp]:
    """Scripts first, as in the file; then what stops nobody; then what does, and so for as short as can be."""
    return sorted(tables, key=lambda table: RANK[kind_of(table)])


def kind_of(table: QuiesceApp) -> str:
    return str(table.__struct_config__.tag)


class Held:
    """One application."""

    def __init__(self, table: QuiesceApp, where: Where) -> None:
        self._table, self._where, self._name = table, where, kind_of(table)
        self._heard = b""

    def begin(self) -> str:
        """Returns once it is held: what was done. Raises RhaError; then nothing is held."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rha.app.holder"],
            start_new_session=True,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **self._user(),
        )
        task = Task(
            table=self._table,
            scenario=self._where.scenario,
            logs=str(self._where.logs),
            scripts=str(self._where.scripts),
        )
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it is dead already, which is said below
                self._process.stdin.write(msgspec.json.encode(task, enc_hook=encode_unit) + b"\n")
                self._process.stdin.flush()
            return self._next(self._table.limit + GRACE_SECONDS + MARGIN_SECONDS).must_be_good()
        except BaseException:
            self.abandon()
            raise

    def _user(self) -> dict[str, Any]:
        """A script's holder stays root, to become the script's user when it runs it."""
        if isinstance(self._table, QuiesceScript):
            return {}
        try:
            user = pwd.getpwnam(self._table.user)
        except KeyError as error:
            what = f"{self._name}: this host has no user {self._table.user}"
            raise HostError(what, hint="`user` in the scenario's [[quiesce.app]]") from error
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        environment = {**os.environ, "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups, "env": environment}

    def let_go(self) -> None:
        """Raises RhaError when it was not held all the time, or could not be let go of."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            limit = max(float(self._table.limit), LET_GO_SECONDS) + MARGIN_SECONDS
            self._next(limit).must_be_good()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Does not wait for what it says: it lets go by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        threading.Thread(target=self._process.wait, name=f"holder-{self._name}", daemon=True).start()

    def _next(self, seconds: float) -> Word:
        """What it says next. Raises StateError when it says nothing."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._heard:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise StateError(f"{self._name} does not answer", cause=f"nothing for {seconds:g} s")
            more = os.read(self._process.stdout.fileno(), 4096)
            if not more:
                cause = f"its holder ended (exit code {self._process.wait()}); the limit is {self._table.limit:g} s"
                raise StateError(f"{self._name} could not be held", cause=cause, hint="is its server busy, or stopped?")
            self._heard += more
            if len(self._heard) > MAX_WORD_BYTES:
                raise StateError(f"{self._name} could not be held", cause="its holder says more than an answer")
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            return from_json(line, Word)
        except NotReadable as error:  # it runs as the database's user, and may be anybody by now
            raise StateError(f"{self._name} could not be held", cause=f"its holder said: {error}") from error
