"""The product as a user meets it: the `rha` command, its two daemons, and what they report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from rha.control import local
from rha.errors import Exit, NetworkError, RhaError, StateError
from rha.report import Report

RHA = Path(sys.executable).with_name("rha")
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")  # before a command: also a killed demo leaves no process behind
RHA_SECONDS = 120.0
STOP_SECONDS = 15.0
LOG_LINES_SHOWN = 12


def rha(*words: str, run_dir: Path | None = None, may_differ: bool = False, seconds: float = RHA_SECONDS) -> str:
    """Runs one `rha` command and returns its standard output.

    Raises StateError with what it said when it fails. `may_differ`: exit code 1 is an answer too ("no").
    """
    done = subprocess.run(
        [str(RHA), *words], env=_environment(run_dir), capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode and not (may_differ and done.returncode == Exit.DIFFERENT):
        raise StateError(f"rha {' '.join(words)} ended with {done.returncode}", cause=done.stderr.strip())
    return done.stdout


class Daemon:
    """`rha engine` or `rha appliance` as a process of its own, its output in a log."""

    def __init__(self, name: str, words: list[str], run_dir: Path, log: Path) -> None:
        self.name, self._log = name, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*DIES_WITH_US, str(RHA), name, *words],
                env=_environment(run_dir),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is for the demo, which then ends this in order
            )

    def check(self) -> None:
        """Raises StateError with the log's last lines when the process has ended."""
        code = self._process.poll()
        if code is not None:
            last = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            raise StateError(
                f"rha {self.name} ended with {code}", cause="\n       ".join(last), hint=f"see {self._log}"
            )

    def kill(self) -> None:
        """`kill -9`; does not wait, so that the rest of the master can die in the same moment."""
        self._process.kill()

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole session when it does not listen. May be called twice, and after `kill`."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def reports(socket: Path, timeout: float = 2.0) -> list[Report]:
    """What a daemon says of its scenarios now; an empty list when nobody answers."""
    try:
        answer = local.call(socket, "status", timeout=timeout)
    except NetworkError:
        return []
    try:
        return msgspec.convert(answer, list[Report])
    except msgspec.ValidationError as error:
        raise RhaError("a report cannot be read", cause=str(error)) from error


def _environment(run_dir: Path | None) -> dict[str, str]:
    return {**os.environ, **({"RHA_RUN_DIR": str(run_dir), "RHA_STATE_DIR": str(run_dir / "state")} if run_dir else {})}
