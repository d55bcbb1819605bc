"""What a redirection is: one way of leading clients to the other side, and back.

Four acts, each may be repeated, each returns the sentences that say what it found or did:
- **check**: would `apply` succeed? Changes nothing. Raises RhaError with the reason when not.
- **apply**: clients go to the substitute. What was there before is written to the memory *before* the first change.
- **revert**: as it was before `apply`, from the memory. Without a memory nothing was changed, so nothing is done.
- **verify**: is it really so, asked where clients ask?

An act that fails has undone its own part, or says what is left. Every act ends within its time limit.
A redirection is made for one *side*: `replica` takes over, `master` gives up what it had.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from rha.decoding import from_json
from rha.durable import sync_folder
from rha.errors import RhaError, StateError, StorageError
from rha.scenario import decode_unit, encode_unit
from rha.units import show_seconds

Side = Literal["replica", "master"]
Sentences = list[str]
T = TypeVar("T")


class Act(StrEnum):
    CHECK = "check"
    APPLY = "apply"
    REVERT = "revert"
    VERIFY = "verify"


@dataclass(frozen=True)
class Place:
    """The host that redirections act on. Only the administrator of that host decides these paths, never a scenario: a
    scenario comes from another host.

    `memory`: folder of this scenario's memories; `root`: its `/etc` is written.
    """

    scenario: str
    side: Side
    memory: Path
    root: Path = Path("/")
    scripts: Path = Path("/etc/rha/scripts")
    samba_config: Path = Path("/etc/samba/smb.conf")
    samba_include: Path = Path("/etc/samba/rha-aliases.conf")
    nmbd_restart: tuple[str, ...] = ("systemctl", "restart", "nmbd.service")
    unit_restart: tuple[str, ...] = ("systemctl", "try-restart")


def replica_place(scenario: str, folder: Path) -> Place:
    """The appliance's side of a scenario whose folder is given."""
    return Place(scenario=scenario, side="replica", memory=folder / "redirect")


def master_place(scenario: str, folder: Path) -> Place:
    """The master's side; `folder`: where its engine keeps what must survive it."""
    return Place(scenario=scenario, side="master", memory=folder / "redirect")


class Deadline:
    """The time limit of one act."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds left, more than zero. Raises StateError when the limit has passed."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise StateError(f"not done within {show_seconds(self.seconds)}", hint="`limit` in the scenario")
        return min(left, at_most)

    def pause(self, seconds: float) -> None:
        """Waits, but not past the limit. Raises StateError when it has passed."""
        time.sleep(self.left(seconds))


class Memory:
    """What one redirection found before it changed anything; a file, gone once all is as before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, kind: type[T]) -> T | None:
        """None: nothing was changed. Raises StorageError when it cannot be read."""
        try:
            return from_json(self.path.read_bytes(), kind, dec_hook=decode_unit)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            hint = "it says what was there before the redirection: look at it, put that back by hand, remove the file"
            raise StorageError(f"{self.path} cannot be read", cause=str(error), hint=hint) from error

    def save(self, value: Any) -> None:
        """Durable before the change that it is about. Raises StorageError."""
        write_durably(self.path, msgspec.json.format(msgspec.json.encode(value, enc_hook=encode_unit), indent=1))

    def clear(self) -> None:
        """All is as before."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(self.path.parent)


class Redirection(ABC):
    """One table `[[redirect]]`, made for one side."""

    type: str
    limit: float  # seconds of each act

    @abstractmethod
    def describe(self, act: Act) -> str:
        """What the act would do, for a plan: `add 192.0.2.10/24 to eth0`."""

    def prepare(self) -> None:  # noqa: B027 - most kinds have nothing to load
        """Loads what the first act would have to load. Asks and changes nothing."""

    @abstractmethod
    def check(self, deadline: Deadline) -> Sentences: ...

    @abstractmethod
    def apply(self, deadline: Deadline) -> Sentences: ...

    @abstractmethod
    def revert(self, deadline: Deadline) -> Sentences: ...

    @abstractmethod
    def verify(self, deadline: Deadline) -> Sentences: ...

    def do(self, act: Act) -> Sentences:
        """One act within the limit. Raises RhaError."""
        verbs = {Act.CHECK: self.check, Act.APPLY: self.apply, Act.REVERT: self.revert, Act.VERIFY: self.verify}
        try:
            return verbs[act](Deadline(self.limit))
        except OSError as error:  # of a file or socket that no adapter has named
            raise RhaError(f"{self.describe(act)}: {error.strerror or error}", cause=str(error)) from error


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces a file as a whole; after a crash the old or the new one is there. Raises StorageError."""
    draft = path.with_name(f".{path.name}.rha")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written", cause=str(error), hint=f"df -h {path.parent}") from error
