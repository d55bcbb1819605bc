"""`rha sync import` at the appliance that runs: one import at a time, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from rha.appliance import importing
from rha.appliance.config import Config
from rha.control.local import Handler
from rha.errors import StateError
from rha.sync.medium import Medium, Secret


class Importer:
    """`replace(scenario, act)` closes a scenario, lets `act` change its folder, and opens it again; it raises
    StateError when the scenario may not be replaced."""

    def __init__(self, config: Config, replace: Callable[[str, Callable[[], None]], None]) -> None:
        self._config, self._replace = config, replace
        self._store = Path(config.store)
        self._one = threading.Lock()
        self._progress = (0, 0)

    def handlers(self) -> dict[str, Handler]:
        return {"import_medium": self.run, "import_progress": self.progress}

    def progress(self) -> Any:
        """Parts done, and of how many; null while no import runs."""
        return list(self._progress) if self._one.locked() else None

    def run(self, medium: str, kind: Literal["file", "passphrase"], secret: str, name: str | None = None) -> Any:
        """Fills a scenario's images. `secret` in hex. Raises StorageError, ConfigError, StateError."""
        with self._alone():
            found = Medium(Path(medium), name)
            manifest, _ = found.complete(Secret(kind, bytes.fromhex(secret)))
            self._refuse(manifest.scenario)
            staging, done = importing.fill(
                self._store,
                found,
                Secret(kind, bytes.fromhex(secret)),
                cast(Any, self._config.image_format),
                self._note,
            )
            self._refuse(done.scenario)  # the master may have come meanwhile
            folder = self._store / done.scenario
            self._replace(done.scenario, lambda: importing.put_in_place(staging, folder))
            return done._asdict()

    def _refuse(self, scenario: str) -> None:
        if why := importing.why_not_replaced(self._store / scenario):
            raise why
        if places := [one.place for one in self._config.target if one.scenario == scenario]:
            cause = f"its images are to lie on {', '.join(places)}; an import writes files"
            raise StateError(f"{scenario} cannot be filled by an import", cause=cause, hint="sync it over the line")

    def _note(self, done: int, total: int) -> None:
        self._progress = (done, total)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._one.acquire(blocking=False):
            raise StateError("an import is running", cause="one at a time", hint="wait for its end")
        self._progress = (0, 0)
        try:
            yield
        finally:
            self._one.release()
