"""The mark of a substitute: a file inside the guest that tells the engine there what it is.

A guest that is booted from a master's image has the master's engine, with its certificate. It must not connect as the
master, nor hold the master's lease. The appliance refuses it anyway while the substitute stands; this says so inside.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from rha.decoding import NotReadable, from_json
from rha.errors import ConfigError

MARK = "/etc/rha/substitute"


class Mark(msgspec.Struct, frozen=True):
    """The file's content, JSON. `since`: the appliance's clock when the guest was adapted."""

    scenario: str
    since: float

    def sentence(self) -> str:
        when = time.strftime("%F %T", time.localtime(self.since))
        return f"this host is the substitute of {self.scenario}, made {when}: it is not captured and does not connect"


def encode(mark: Mark) -> bytes:
    return msgspec.json.encode(mark) + b"\n"


def load(path: Path | None = None) -> Mark | None:
    """None: this host is no substitute.

    Raises ConfigError when the file cannot be read: better no engine than two masters.
    """
    path = path or Path(MARK)
    try:
        return from_json(path.read_bytes(), Mark)
    except FileNotFoundError:
        return None
    except (OSError, NotReadable) as error:
        hint = f"on a substitute leave it; on the master itself: rm {path}"
        raise ConfigError(f"{path} cannot be read", cause=str(error), hint=hint) from error
