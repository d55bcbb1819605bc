"""Runs a program of the administrator: for redirections, fences and checks.

It is run from one folder that only the administrator can write, without arguments, as a user of its own, in a process
group of its own, with an environment that says all of it. What outlives its limit is killed with its group.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rha.errors import ConfigError, HostError, StateError
from rha.units import show_seconds

FOLDER = Path("/etc/rha/scripts")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_OUTPUT_BYTES = 1 << 20
POLL_SECONDS, GRACE_SECONDS = 0.02, 1.0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_TAIL_BYTES = 300


@dataclass(frozen=True)
class Ended:
    """One run. `killed`: why it was killed; empty: it ended by itself. `said`: the end of its output."""

    code: int
    killed: str
    said: str
    seconds: float

    @property
    def how(self) -> str:
        """`exit code 3`, `signal 9`."""
        return f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code}"


class Program:
    """One program, by its name in the folder. `log` gets its output, of one run at a time."""

    def __init__(self, folder: Path, name: str, user: str, log: Path) -> None:
        self.folder, self.path, self.name, self._user_name, self.log = folder, folder / name, name, user, log

    def must_be_safe(self) -> None:
        """Only the administrator may have written what we run, often as root. Raises ConfigError."""
        for path in (self.folder, self.path):
            try:
                found = path.lstat()
            except OSError as error:
                hint = f"put it there, owned by root: install -m 755 {self.name} {self.folder}/"
                raise ConfigError(f"script {path} cannot be run", cause=error.strerror or "", hint=hint) from error
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
                cause = f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}: others could replace it"
                raise ConfigError(f"script {path} is not run", cause=cause, hint=f"chown root {path}; chmod 755 {path}")
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IXUSR:
            raise ConfigError(
                f"script {self.path} cannot be run", cause="no executable file", hint=f"ls -l {self.path}"
            )

    def user(self) -> pwd.struct_passwd:
        """Who runs it. Raises HostError when this host has no such user, or we cannot become him."""
        try:
            user = pwd.getpwnam(self._user_name)
        except KeyError as error:
            what = f"script {self.name}: this host has no user {self._user_name}"
            raise HostError(what, hint=f"adduser --system {self._user_name}") from error
        if os.geteuid() not in (0, user.pw_uid):
            raise HostError(f"script {self.name} cannot be run as {user.pw_name}", cause="not root", hint="sudo")
        return user

    def run(self, words: Mapping[str, str], pause: Callable[[float], None], limit: float) -> Ended:
        """Runs it to its end. `words`: RHA_… of its environment; `pause(seconds)` raises StateError when the time, at
        most `limit` seconds, is over. Raises HostError when it does not start."""
        begun = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b") as output:
            code, why = self._supervise(self._start(words, output), pause, limit)
        return Ended(code, why, self._last_words(), time.monotonic() - begun)

    def _start(self, words: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        user = self.user()
        is_root = os.geteuid() == 0
        try:
            return subprocess.Popen(
                [self.path],
                cwd="/",
                env={
                    "PATH": PATH,
                    "LANG": "C.UTF-8",
                    "HOME": user.pw_dir,
                    "USER": user.pw_name,
                    "LOGNAME": user.pw_name,
                    **words,
                },
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

    def _supervise(
        self, process: subprocess.Popen[bytes], pause: Callable[[float], None], limit: float
    ) -> tuple[int, str]:
        why = ""
        try:
            while not _has_ended(process):
                if self.log.stat().st_size > MAX_OUTPUT_BYTES:
                    why = f"wrote more than {MAX_OUTPUT_BYTES} bytes"
                    break
                pause(POLL_SECONDS)
        except StateError:
            why = f"ran longer than {show_seconds(limit)}"
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
