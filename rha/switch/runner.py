"""Does the steps of a switch, whatever its kind, and keeps its progress on disk before and after each of them.

An effect may be done again after a crash in its middle, and undone whether it was done, half done or not begun. So a
switch that was cut off goes on, or is rolled back, from what the file says.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rha.errors import RhaError, StateError
from rha.switch import progress as ledger
from rha.switch.plan import CHECKS, Step
from rha.switch.progress import FAILED, ROLLED_BACK, ROLLING_BACK, Progress, StepRecord

Say = Callable[[str], None]
_LOCK = "failover.lock"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effect:
    """`do(limit in seconds)` raises RhaError when it fails; `undo`: None when nothing has to be taken back."""

    do: Callable[[float], None]
    undo: Callable[[], None] | None = None


Effects = Mapping[str, Effect]  # by the name of the step


@dataclass(frozen=True)
class Run:
    """One switch at work. `progress` is the file's content, saved in `folder`."""

    folder: Path
    progress: Progress
    effects: Effects
    say: Say = log.info

    def store(self) -> None:
        ledger.store(self.folder, self.progress)

    def check(self, step: Step) -> None:
        """Does a step that changes nothing. It is not recorded: when it refuses, nothing has begun."""
        self.say(f"{step.name}: {step.sentence}")
        self.effects[step.name].do(step.limit)

    def check_all(self, todo: Sequence[Step]) -> None:
        """Does the checks among them. Raises what the first one does that refuses."""
        for step in todo:
            if step.name in CHECKS:
                self.check(step)

    def do_all(self, todo: Sequence[Step]) -> None:
        """Does the others, in order."""
        for step in todo:
            if step.name not in CHECKS:
                self.do(step)

    def do(self, step: Step) -> None:
        """Does a step. Raises what it raises, after `failed` was recorded."""
        progress = self.progress
        record = StepRecord(name=step.name, sentence=step.sentence, begun=time.time(), undo=step.undo)
        progress.steps = [*progress.steps, record]
        progress.why = step.sentence
        self.store()
        self.say(f"{step.name}: {step.sentence}")
        begun = time.monotonic()
        try:
            self.effects[step.name].do(step.limit)
        except Exception as error:
            record.seconds, record.failure = time.monotonic() - begun, in_words(error)
            progress.state, progress.why = FAILED, f"{step.name}: {record.failure}"
            self.store()
            self.say(progress.sentence())
            raise
        record.seconds = time.monotonic() - begun
        self.store()

    def roll_back(self, why: str) -> None:
        """Takes back every step that has begun, the last one first; one that is taken back already is passed over.

        Raises what an undo raises: the state is then `rolling-back` with its name, and this may be called again.
        """
        progress = self.progress
        progress.state, progress.why = ROLLING_BACK, why
        self.store()
        self.say(progress.sentence())
        for record in reversed(progress.steps):
            if record.undone is None and record.undo:
                self._undo(record, why)
        progress.state = ROLLED_BACK
        self.say(progress.sentence())

    def _undo(self, record: StepRecord, why: str) -> None:
        self.say(f"undo {record.name}: {record.undo}")
        undo, begun = self.effects[record.name].undo, time.monotonic()
        try:
            if undo:
                undo()
        except Exception as error:
            self.progress.why = f"{why}; to {record.undo}: {in_words(error)}"
            self.store()
            raise
        record.undone = time.monotonic() - begun
        self.store()


def in_words(error: Exception) -> str:
    return error.what if isinstance(error, RhaError) else f"bug: {error!r}"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One switch of a scenario at a time, over all processes; the kernel lets go when a process dies."""
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"a failover is at work in {folder}", hint="rha status --watch") from error
        yield
