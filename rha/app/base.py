"""What an application is to rha: something that can be brought to a clean state and held there for a moment.

Every application runs in a holder (rha/app/holder.py), a process of its own that lets go by itself when its time is
over or the engine is gone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from rha.program import FOLDER
from rha.redirect.base import Deadline


class Where:
    """The master that holders run on. Only its administrator decides these paths. `logs`: of scripts."""

    def __init__(self, scenario: str, logs: Path, scripts: Path = FOLDER) -> None:
        self.scenario, self.logs, self.scripts = scenario, logs, scripts


class App(ABC):
    """One application. Used by one thread, in its holder; whoever is killed lets go by that."""

    @abstractmethod
    def hold(self, deadline: Deadline) -> str:
        """Brings it to a clean state that lasts until `let_go`. Returns what was done, in a few words.

        Raises RhaError; then `let_go` is called all the same.
        """

    @abstractmethod
    def let_go(self, deadline: Deadline) -> None:
        """Raises RhaError when it was not held any more: what was done meanwhile does not count."""
