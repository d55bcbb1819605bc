"""Where a switchback stands, on disk (`switchback.json` in the scenario's folder) before and after each step. The
failover's own file stays beside it: until the master was told that it may serve, that is what counts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rha.appliance.catalog import save
from rha.decoding import from_json
from rha.errors import StorageError
from rha.report import ReturnReport
from rha.switch.passes import Pass
from rha.switch.progress import FAILED, ROLLED_BACK, ROLLING_BACK, RUNNING, Progress
from rha.switch.switchback import is_past_return

FILE = "switchback.json"
SWITCHBACK = "switchback"
DONE = "done"


class Returned(Progress, kw_only=True):
    """The file. `passes`: those that have ended. `stopped`: when the substitute's guest was off (appliance's clock);
    `verified_bytes`: compared in the pause; `pause_seconds`: from the step that leads
    clients away to the master's acknowledgement. `kept_bytes`: of overlays that the replica has taken in."""

    kind: str = SWITCHBACK
    passes: list[Pass] = msgspec.field(default_factory=list)
    stopped: float | None = None
    pause_begun: float | None = None
    pause_seconds: float | None = None
    verify_all: bool = False
    verified_bytes: int = 0
    kept_bytes: int = 0

    @property
    def ended(self) -> frozenset[str]:
        return frozenset(step.name for step in self.steps if step.seconds is not None and not step.failure)

    @property
    def compared_bytes(self) -> int:
        return sum(one.compared for one in self.passes)

    @property
    def sent_bytes(self) -> int:
        return sum(one.sent for one in self.passes)


def load(folder: Path) -> Returned | None:
    """The switchback of a scenario's folder; None: there is none. Raises StorageError when its file cannot be read."""
    path = folder / FILE
    try:
        return from_json(path.read_bytes(), Returned)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        hint = "the master may have been told that it may serve: ask it (rha receive), before the substitute is started"
        raise StorageError(f"{path} cannot be read", cause=str(error), hint=hint) from error


def store(folder: Path, progress: Returned) -> None:
    """Replaces the file, durably. Raises StorageError."""
    save(folder / FILE, progress)


def state_now(progress: Returned) -> str:
    """The state's name for a report: where a switchback stands, whatever becomes of it."""
    if is_past_return(progress.begun):
        return "handing-over" if progress.state in (RUNNING, FAILED) else progress.state
    if progress.state in (ROLLING_BACK, ROLLED_BACK):
        return progress.state
    return "returning"


def report_of(progress: Returned) -> ReturnReport:
    """For the scenario's report; the figures of a pass under way are added by who has them."""
    return ReturnReport(
        state=state_now(progress),
        step=progress.steps[-1].name if progress.steps else "",
        passes=len(progress.passes),
        compared_bytes=progress.compared_bytes,
        sent_bytes=progress.sent_bytes,
        seconds=0.0,
    )
