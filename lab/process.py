"""A process that somebody of the lab runs at some place: it ends when we do, however that is."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from demo.product import DIES_WITH_US
from rha.errors import HostError

STOP_SECONDS = 15.0


class Process:
    """Started with its creation, its output in a file. `stop` may be called twice."""

    def __init__(
        self, words: Sequence[str], log: Path, *, place: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        """`place`: words before the command that put it into a network (`Segment.prefix`)."""
        self._words, self._log = words, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*DIES_WITH_US, *place, *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raises HostError with its last words when it has ended."""
        if self._process.poll() is not None:
            said = " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])
            raise HostError(f"{self._words[0]} ended with {self._process.returncode}", cause=said)

    def stop(self) -> None:
        """SIGTERM, SIGKILL when it does not listen."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
