"""What the verbs about points share: asking the appliance of this host, and a point that is closed again."""

from __future__ import annotations

import contextlib
import getpass
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rha.control import local

POLL_SECONDS = 0.5


def appliance(verb: str, **words: Any) -> Any:
    """The appliance's answer, as long as it takes. Raises what it answers, and as `local.call`."""
    return local.call(local.RUN_DIR / "appliance.sock", verb, timeout=None, **words)


def accompanied(verb: str, look: Callable[[], None], **words: Any) -> Any:
    """As `appliance`; `look` is called twice a second meanwhile."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            result.append(appliance(verb, **words))
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked for it
            failure.append(error)

    worker = threading.Thread(target=ask, name=verb, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(POLL_SECONDS)
        look()
    if failure:
        raise failure[0]
    return result[0]


@contextlib.contextmanager
def opened(scenario: str, at: str, directory: str | None = None) -> Iterator[dict[str, Any]]:
    """An open point (rha.appliance.pointkeeper.Opened as plain values), mounted when a directory is given."""
    words = {"directory": directory} if directory else {}
    point = appliance("mount_point" if directory else "open_point", scenario=scenario, at=at, **words)
    try:
        yield point
    finally:
        appliance("close_point", scenario=scenario, name=point["name"])


def person() -> str:
    """Who asks, for the record."""
    return os.environ.get("SUDO_USER") or getpass.getuser()
