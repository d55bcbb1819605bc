"""What a fence is: one way to be certain that the master serves no more.

- **check**: could it be cut off now? Changes nothing. Raises RhaError with the reason when not.
- **cut**: it is off, or RhaError is raised. A fence that only *believes* so has failed: "sent, no answer" is a failure.

Both may be repeated; a master that is off already is well. Each ends within its time limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from rha.errors import RhaError
from rha.program import FOLDER
from rha.redirect.base import Deadline

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class FencePlace:
    """The appliance as fences see it. Paths are its administrator's, never the scenario's, which comes from a master.

    `logs`: folder for the output of scripts.
    """

    scenario: str
    logs: Path
    scripts: Path = FOLDER


class Fence(ABC):
    """One table `[[fence]]`."""

    kind: str
    limit: float  # seconds of each act

    @abstractmethod
    def describe(self) -> str:
        """What `cut` would do, for a plan: `switch the power off by IPMI at 192.0.2.9`."""

    @abstractmethod
    def check(self, deadline: Deadline) -> str: ...

    @abstractmethod
    def cut(self, deadline: Deadline) -> str:
        """The sentence that says why the master is certainly off."""

    def do(self, act: str) -> str:
        """`check` or `cut` within the limit. Raises RhaError."""
        try:
            return (self.check if act == "check" else self.cut)(Deadline(self.limit))
        except OSError as error:  # that no adapter has named
            raise RhaError(f"{self.describe()}: {error.strerror or error}", cause=str(error)) from error
