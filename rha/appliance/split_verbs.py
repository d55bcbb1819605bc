"""What the command line asks the appliance about two sides that have parted, and what is kept of one: also while a
switchback stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from rha.appliance.warden import Warden
from rha.control.local import Handler
from rha.switch import switches
from rha.units import show_bytes


class SplitVerbs:
    """`warden_of(scenario)` raises StateError when it is not here."""

    def __init__(self, warden_of: Callable[[str], Warden]) -> None:
        self._warden_of = warden_of

    def handlers(self) -> dict[str, Handler]:
        return {"split": self.split, "kept": self.kept, "drop_kept": self.drop_kept}

    def split(self, scenario: str) -> Any:
        """Raises as Parted.answer."""
        return self._warden_of(scenario).parted.answer()

    def kept(self, scenario: str) -> Any:
        """What discarded substitutes wrote (rha.appliance.kept.Listed), oldest first."""
        return msgspec.to_builtins(self._warden_of(scenario).replica.points.kept.listed())

    def drop_kept(self, scenario: str, name: str, person: str = "operator", reason: str = "") -> Any:
        """Raises StateError when there is none of that name, or somebody looks at it."""
        replica, begun = self._warden_of(scenario).replica, time.time()
        freed = replica.points.drop_kept(name)
        sentence = f"{scenario}: {name} is removed, {show_bytes(freed)}; its point goes with the window"
        switches.note(replica.folder, "drop-kept", person, reason or "asked for by a person", begun, sentence)
        return {"sentence": sentence}
