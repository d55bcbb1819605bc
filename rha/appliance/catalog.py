"""Small files of a scenario on the appliance, each replaced as a whole: after a crash the old or the new one is
there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rha import durable
from rha.appliance.stream import StreamState
from rha.decoding import from_json
from rha.errors import StorageError
from rha.scenario import Scenario, from_plain, to_plain

T = TypeVar("T")

_STREAM, _SCENARIO = "stream.json", "scenario.json"


def save(path: Path, value: Any) -> None:
    """Replaces a JSON file, durably. Raises StorageError."""
    try:
        durable.replace(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
    except OSError as error:
        raise StorageError(f"{path} cannot be written", cause=str(error), hint=f"df -h {path.parent}") from error


def make_folder(path: Path) -> None:
    """A folder of a scenario, if it is not there. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        cause = error.strerror or str(error)
        raise StorageError(f"{path} cannot be made", cause=cause, hint=f"df -h {path.parent}") from error


def load(path: Path, kind: type[T]) -> T | None:
    """The content of such a file; None when it was never written. Raises StorageError when it cannot be read."""
    try:
        return from_json(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise unreadable(path, str(error)) from error


def unreadable(path: Path, cause: str) -> StorageError:
    """The error for a file of a scenario that cannot be what was written."""
    hint = f"move {path.parent} aside and restart the appliance: its disks are then synced again"
    return StorageError(f"{path} cannot be read", cause=cause, hint=hint)


def save_stream(folder: Path, state: StreamState) -> None:
    """What the stream had said up to the frames that are in the images."""
    save(folder / _STREAM, state)


def load_stream(folder: Path) -> StreamState:
    return load(folder / _STREAM, StreamState) or StreamState()


def save_scenario(folder: Path, scenario: Scenario) -> None:
    """The scenario as the master last sent it: a failover needs it when the master is gone."""
    save(folder / _SCENARIO, to_plain(scenario))


def load_scenario(folder: Path) -> Scenario | None:
    """As it was saved; None before that. Raises StorageError."""
    plain = load(folder / _SCENARIO, dict)
    try:
        return None if plain is None else from_plain(plain)
    except msgspec.ValidationError as error:
        raise unreadable(folder / _SCENARIO, str(error)) from error
