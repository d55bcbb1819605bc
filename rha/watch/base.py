"""One question put to a host, asked several times: the answer and the sentence that says it.

A kind of check is one file with `attempt(address, timeout) -> seconds`, registered in `ask.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rha.report import CheckReport
from rha.scenario import Check
from rha.units import show_seconds

Via = tuple[str, int]  # host and port that is connected to, whatever the check's address says


class NoAnswer(Exception):
    """One attempt failed; the text says how (`connection refused`)."""


@dataclass(frozen=True)
class Result:
    """What became of one check. `why` is valid iff not `answered`: the reason of the last failed attempt."""

    kind: str
    address: str
    answered: bool
    attempts: int  # made, not configured: the first answer ends the check
    of: int
    seconds: float
    why: str = ""

    def as_report(self) -> CheckReport:
        return CheckReport(
            kind=self.kind, address=self.address, answered=self.answered, why=self.sentence(), time=time.time()
        )

    def sentence(self) -> str:
        """`tcp 192.0.2.10:5432: connection refused, 3 of 3 attempts in 2.1 s`."""
        about = f"{self.kind} {self.address}: "
        if self.answered:
            again = "" if self.attempts == 1 else f" at attempt {self.attempts} of {self.of}"
            return f"{about}answered{again} in {show_seconds(self.seconds)}"
        return f"{about}{self.why}, {self.attempts} of {self.of} attempts in {show_seconds(self.seconds)}"


def answer(check: Check, attempts: int, seconds: float) -> Result:
    """The result of a check that was answered at attempt number `attempts`."""
    return Result(check.kind, check.address, True, attempts, check.attempts, seconds)


def silence(check: Check, attempts: int, seconds: float, why: str) -> Result:
    """The result of a check that nobody answered."""
    return Result(check.kind, check.address, False, attempts, check.attempts, seconds, why)
