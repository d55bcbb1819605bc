"""File systems frozen for a moment, by a process that thaws them even when we do not live to say so."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType

from rha.capture import freezer
from rha.errors import DeviceError

ONCE_SECONDS = 60.0
GRACE_SECONDS = 10.0  # behind the limit, for the freezer's last word
_WHY = {
    errno.EOPNOTSUPP: "its file system cannot be frozen",
    errno.EBUSY: "it is frozen already, by somebody else",
    errno.EPERM: "not permitted",
}


class Freeze:
    """Freezes the file systems of these directories, in this order, until `thaw` or the end of the block; in any case
    they are thawed `seconds` after it began. `paths`: what they are called in a sentence.

    `thaw` says whether they were frozen up to that moment: only then does what was done meanwhile count.
    """

    def __init__(self, directories: Sequence[int], paths: Sequence[str], seconds: float) -> None:
        self._directories, self._paths = list(directories), dict(zip(directories, paths, strict=True))
        self._seconds, self._said = seconds, b""

    def __enter__(self) -> Freeze:
        """Raises DeviceError; then nothing is frozen."""
        self._end = time.monotonic() + self._seconds + GRACE_SECONDS
        words = [sys.executable, "-I", "-S", freezer.__file__, str(self._seconds), *map(str, self._directories)]
        self._process = subprocess.Popen(
            words,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=self._directories,
        )
        try:
            word = self._next_word()
            if word != "frozen":
                raise self._failure(word)
        except BaseException:
            self._finish()
            raise
        return self

    def thaw(self) -> None:
        """Raises DeviceError when they were not frozen all the time up to now."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        word = self._next_word()
        if word != "held":
            raise self._failure(word)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def _next_word(self) -> str:
        """Empty: it said nothing more, or nothing in time."""
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            left = max(0.0, self._end - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return ""
            more = os.read(self._process.stdout.fileno(), 4096)
            if not more:
                return ""
            self._said += more
        word, _, self._said = self._said.partition(b"\n")
        return word.decode()

    def _finish(self) -> None:
        """Lets go, and waits for its end. When it was killed, guard and all, we are the last who can thaw."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(1.0, self._end - time.monotonic()))
        self._process.stdout.close()
        if self._process.returncode:
            for directory in reversed(self._directories):
                freezer.thaw(directory)

    def _failure(self, word: str) -> DeviceError:
        kind, *numbers = word.split() or ["silent"]
        path = self._paths[int(numbers[0])] if numbers else ", ".join(self._paths.values())
        if kind == "refused":
            number = int(numbers[1])
            why = _WHY.get(number, os.strerror(number))
            hint = "findmnt" if number != errno.EOPNOTSUPP else "quiesce.leave in the scenario names what is left out"
            return DeviceError(f"{path} cannot be frozen", cause=why, hint=hint)
        causes = {
            "lost": "somebody else thawed it meanwhile",
            "late": f"not done within {self._seconds:g} s; it was thawed by then",
            "killed": "the freezer was killed; what it had frozen is thawed",
        }
        cause = causes.get(kind, "the freezer ended without a word")
        return DeviceError(f"{path} was not frozen all the time", cause=cause, hint="dmesg | tail")


@contextlib.contextmanager
def opened(paths: Sequence[str]) -> Iterator[list[int]]:
    """The directories, open. Raises DeviceError."""
    with ExitStack() as stack:
        found = []
        for path in paths:
            try:
                found.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError as error:
                raise DeviceError(f"{path} cannot be opened", cause=error.strerror or "", hint="findmnt") from error
            stack.callback(os.close, found[-1])
        yield found


def freeze_once(paths: Sequence[str]) -> None:
    """Freezes and thaws each file system once, so that all writes that were on their way are done.

    Raises DeviceError when it fails or does not end in time.
    """
    with opened(paths) as directories, Freeze(directories, paths, ONCE_SECONDS) as frozen:
        frozen.thaw()
