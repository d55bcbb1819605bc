"""A program of the administrator, before or after the other redirections.

It runs from one folder that only the administrator can write, without arguments, as a user of its own, in a process
group of its own. Its environment is in docs/redirect.md. Exit code 0 lets things go on; any other stops them: from a
script at "before" that is a veto. It has then undone its own part. One that outlived its limit is killed with its
whole group and run once more with `RHA_ACT=revert`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import stat
import subprocess
import time
from typing import IO

import msgspec

from rha.errors import ConfigError, HostError, RhaError, StateError
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences
from rha.scenario import RunScript
from rha.units import show_seconds

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_OUTPUT_BYTES = 1 << 20
POLL_SECONDS, GRACE_SECONDS = 0.02, 1.0
_TAIL_BYTES = 300
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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

    def describe(self, act: Act) -> str:
        return f"run {self.path} as {self.table.user}, RHA_ACT={act}"

    def check(self, deadline: Deadline) -> Sentences:
        """Raises ConfigError, HostError when it cannot be run; StateError when its dry run says no."""
        self._must_be_safe()
        user = self._user()
        if not self.table.dry_run:
            return [f"{self.path} can be run as {user.pw_name}"]
        return self._run(Act.APPLY, deadline, is_dry=True)

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises StateError when it vetoes, fails, or is killed."""
        self._must_be_safe()
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
        self._must_be_safe()
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

    def _must_be_safe(self) -> None:
        """Only the administrator may have written what we run, often as root."""
        for path in (self.place.scripts, self.path):
            try:
                found = path.lstat()
            except OSError as error:
                hint = f"put it there, owned by root: install -m 755 {self.table.run} {self.place.scripts}/"
                raise ConfigError(f"script {path} cannot be run", cause=error.strerror or "", hint=hint) from error
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
                cause = f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}: others could replace it"
                raise ConfigError(f"script {path} is not run", cause=cause, hint=f"chown root {path}; chmod 755 {path}")
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IXUSR:
            raise ConfigError(
                f"script {self.path} cannot be run", cause="no executable file", hint=f"ls -l {self.path}"
            )

    def _user(self) -> pwd.struct_passwd:
        try:
            user = pwd.getpwnam(self.table.user)
        except KeyError as error:
            what = f"script {self.table.run}: this host has no user {self.table.user}"
            raise HostError(what, hint=f"adduser --system {self.table.user}") from error
        if os.geteuid() not in (0, user.pw_uid):
            raise HostError(f"script {self.table.run} cannot be run as {user.pw_name}", cause="not root", hint="sudo")
        return user

    def _run(self, act: Act, deadline: Deadline, *, is_dry: bool = False) -> Sentences:
        begun = time.monotonic()
        self.log = self._memory.path.with_suffix(f".{'dry-run' if is_dry else act}.log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as output:
            code, why = self._supervise(self._start(act, output, is_dry=is_dry), deadline)
        name, seconds = self.table.run, show_seconds(time.monotonic() - begun)
        hint = f"its output: {self.log}"
        if why:
            raise _Killed(f"script {name} {why}; it was killed", cause=self._last_words(), hint=hint)
        if code:
            verb = "vetoes" if self.table.at == "before" and act is Act.APPLY else "failed"
            ended = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise StateError(f"script {name} {verb} ({ended})", cause=self._last_words(), hint=hint)
        return [f"{name}{' (dry run)' if is_dry else ''}: {act}, done in {seconds}; its output: {self.log}"]

    def _start(self, act: Act, output: IO[bytes], *, is_dry: bool) -> subprocess.Popen[bytes]:
        user = self._user()
        is_root = os.geteuid() == 0
        try:
            return subprocess.Popen(
                [self.path],
                cwd="/",
                env=self._environment(act, user, is_dry=is_dry),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,
                user=user.pw_uid if is_root else None,
                group=user.pw_gid if is_root else None,
                extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if is_root else None,
            )
        except OSError as error:
            hint = "its first line names an interpreter that is there? May the user read the folder?"
            raise HostError(f"script {self.path} does not start", cause=str(error), hint=hint) from error

    def _environment(self, act: Act, user: pwd.struct_passwd, *, is_dry: bool) -> dict[str, str]:
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "RHA_SCENARIO": self.place.scenario,
            "RHA_SIDE": self.place.side,
            "RHA_ACT": str(act),
            "RHA_AT": self.table.at,
            "RHA_DRY_RUN": "1" if is_dry else "0",
            "RHA_LIMIT": f"{self.limit:g}",
        }

    def _supervise(self, process: subprocess.Popen[bytes], deadline: Deadline) -> tuple[int, str]:
        """Exit code, and why it was killed; empty: it ended by itself."""
        why = ""
        try:
            while not _has_ended(process):
                if self.log.stat().st_size > MAX_OUTPUT_BYTES:
                    why = f"wrote more than {MAX_OUTPUT_BYTES} bytes"
                    break
                deadline.pause(POLL_SECONDS)
        except StateError:
            why = f"ran longer than {show_seconds(deadline.seconds)}"
        finally:  # also when we are interrupted: nothing of it outlives us
            if not _has_ended(process):
                _kill_group(process)
            code = process.wait()
        return code, why

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
        words = " | ".join(line.strip() for line in text.splitlines() if line.strip())
        return f"it said: {words}" if words else "it said nothing"


class _Killed(StateError):
    pass


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: while it is a zombie its number, the group's too, belongs to nobody else."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
