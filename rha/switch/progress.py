"""Where a failover stands, on disk (`failover.json` in the scenario's folder) before and after each step.

The times, precisely. Two clocks appear and are never mixed in one difference:
- **RPO** = the master's clock in its last heartbeat - the master's time of the point that the images show
  (`report.Point`: every write submitted before it is in them); at least 0. What is *known* to be missing. Of writes
  after the last heartbeat nobody has told; they span at most the detection time: `rpo_at_most_seconds` = RPO + detect.
- **detect** = decision - last sign of life; **boot** = ready - start of domain; **RTO** = ready - last sign of life;
  **switch** = ready - decision: the appliance's clock.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from rha.appliance.catalog import save
from rha.decoding import from_json
from rha.errors import StorageError
from rha.report import Point, VmReport
from rha.wire.messages import Heartbeat

VERSION = 1
FILE = "failover.json"
RUNNING, SERVING, FAILED = "running", "serving", "failed"
ROLLING_BACK, ROLLED_BACK = "rolling-back", "rolled-back"
FAILOVER, SWITCHOVER = "failover", "switchover"


class Trigger(msgspec.Struct, kw_only=True, frozen=True):
    """Why a failover began. `last_heartbeat`: the master's clock; `last_heard`, `decided`: the appliance's clock. None:
    never heard since the appliance started."""

    by: str  # "appliance" or the person
    reason: str  # the verdict's sentence or the person's words
    decided: float
    last_heartbeat: float | None = None
    last_heard: float | None = None


def trigger(by: str, reason: str, heartbeat: Heartbeat | None = None, heartbeat_age: float | None = None) -> Trigger:
    """A trigger of this moment. `heartbeat_age`: seconds since the last sign of life."""
    now = time.time()
    return Trigger(
        by=by,
        reason=reason,
        decided=now,
        last_heartbeat=heartbeat.time if heartbeat else None,
        last_heard=None if heartbeat_age is None else now - heartbeat_age,
    )


class Image(msgspec.Struct, kw_only=True, frozen=True):
    """One disk's image and the overlay on it."""

    name: str
    path: str
    format: str
    overlay: str


class StepRecord(msgspec.Struct, kw_only=True):
    """One step that has begun. `seconds` None: it has not ended. `failure` is valid iff it ended badly. `undo`: what
    would take it back; `undone`: it was taken back, seconds that took."""

    name: str
    sentence: str
    begun: float
    seconds: float | None = None
    failure: str = ""
    undo: str = ""
    undone: float | None = None


class Released(msgspec.Struct, kw_only=True, frozen=True):
    """What the master said once its applications stood still. `lsn`: every write that was submitted before `time` (its
    clock) is below it; `said`: what it did, in sentences."""

    lsn: int
    time: float
    said: list[str] = []


class Attempt(msgspec.Struct, kw_only=True, frozen=True):
    """A point that was tried before and did not serve."""

    point: Point | None
    why: str


class Progress(msgspec.Struct, kw_only=True):
    """The file. `kind`: failover, switchover, or another act's. `state`: running, serving, failed, rolling-back; `why`
    is its sentence (`wait-ready: …` when failed). `wanted`: the point that was asked for; None: the newest. `released`:
    valid once the master of a switchover has stopped its applications; then `rpo_seconds` 0 means that everything below
    its LSN was found in the images.

    `firmware`, `bus`, `accelerator`, their reasons: valid once define-domain has ended; `bus_why` iff the bus was
    looked up. `guest`: what was changed inside the guest, or could not be. Seconds: valid once it serves.
    """

    version: int = VERSION
    scenario: str
    trigger: Trigger
    kind: str = FAILOVER
    wanted: Point | None = None
    released: Released | None = None
    tried: list[Attempt] = []
    state: str = RUNNING
    why: str = ""
    forced: bool = False
    steps: list[StepRecord] = []
    images: list[Image] = []
    point: Point | None = None
    domain: str = ""
    firmware: str = ""
    firmware_why: str = ""
    bus: str = ""
    bus_why: str = ""
    guest: list[str] = []
    accelerator: str = ""
    accelerator_why: str = ""
    started: float | None = None  # start of the domain, appliance's clock
    ready: float | None = None
    rpo_seconds: float | None = None
    rpo_at_most_seconds: float | None = None
    detect_seconds: float | None = None
    boot_seconds: float | None = None
    switch_seconds: float | None = None
    rto_seconds: float | None = None

    @property
    def begun(self) -> frozenset[str]:
        return frozenset(step.name for step in self.steps)

    @property
    def is_unfinished(self) -> bool:
        """Was it cut off (`kill -9`), so that it has to be run again?"""
        return self.state == RUNNING

    def sentence(self) -> str:
        """`failed: wait-ready: …`, `serving: …`."""
        return f"{self.state}: {self.why}" if self.why else self.state


def measure(progress: Progress) -> None:
    """Fills in the durations from the times. A time that is not known leaves what depends on it None."""
    cause, point = progress.trigger, progress.point
    if progress.released and point:
        progress.rpo_seconds = progress.rpo_at_most_seconds = 0.0 if point.lsn >= progress.released.lsn else None
        progress.switch_seconds = progress.rto_seconds = _between(cause.decided, progress.ready)
        progress.boot_seconds = _between(progress.started, progress.ready)
        return
    if point and cause.last_heartbeat is not None:
        progress.rpo_seconds = max(0.0, cause.last_heartbeat - point.time)
    progress.detect_seconds = _between(cause.last_heard, cause.decided)
    if progress.rpo_seconds is not None and progress.detect_seconds is not None:
        progress.rpo_at_most_seconds = progress.rpo_seconds + progress.detect_seconds
    progress.boot_seconds = _between(progress.started, progress.ready)
    progress.switch_seconds = _between(cause.decided, progress.ready)
    progress.rto_seconds = _between(cause.last_heard, progress.ready)


def _between(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else max(0.0, later - earlier)


def load(folder: Path) -> Progress | None:
    """The failover of a scenario's folder; None: there is none. Raises StorageError when its file cannot be read."""
    path = folder / FILE
    try:
        return from_json(path.read_bytes(), Progress)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        hint = "a substitute VM may be running on overlays in this folder: virsh list --all, before anything is removed"
        raise StorageError(f"{path} cannot be read", cause=str(error), hint=hint) from error


def store(folder: Path, progress: Progress) -> None:
    """Replaces the file, durably. Raises StorageError."""
    save(folder / FILE, progress)


def vm_report(progress: Progress) -> VmReport:
    """The substitute VM for the scenario's report."""
    return VmReport(
        domain=progress.domain,
        state=progress.state,
        accelerator=progress.accelerator,
        rpo_seconds=progress.rpo_seconds,
        rto_seconds=progress.rto_seconds,
    )
