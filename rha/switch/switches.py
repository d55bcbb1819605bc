"""The history of a scenario's switches: who, when, why, how long each step took, and how it ended.

`switches.jsonl` in the scenario's folder, one JSON line an attempt, appended and synced, never rewritten. A line that a
crash cut off is left out when it is read, and ended before the next one is appended.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from rha.decoding import from_json
from rha.errors import StorageError
from rha.report import Point
from rha.switch.progress import Progress, StepRecord
from rha.units import show_seconds

FILE = "switches.jsonl"


class Switch(msgspec.Struct, kw_only=True, frozen=True):
    """One attempt. `kind`: failover, switchover, discard, …; `begun`, `ended`: the appliance's clock; `outcome`: a
    state of progress.py, or `done`; `why`: its sentence; `steps`: those of this attempt."""

    kind: str
    by: str
    reason: str
    begun: float
    ended: float
    outcome: str
    why: str
    steps: list[StepRecord] = []
    point: Point | None = None
    rpo_seconds: float | None = None
    rto_seconds: float | None = None


def record(folder: Path, progress: Progress, begun: float) -> None:
    """An attempt of a switch that began at `begun` has ended. Raises StorageError."""
    steps = [step for step in progress.steps if step.begun >= begun or step.undone is not None]
    append(
        folder,
        Switch(
            kind=progress.kind,
            by=progress.trigger.by,
            reason=progress.trigger.reason,
            begun=begun,
            ended=time.time(),
            outcome=progress.state,
            why=progress.why,
            steps=steps,
            point=progress.point,
            rpo_seconds=progress.rpo_seconds,
            rto_seconds=progress.rto_seconds,
        ),
    )


def note(folder: Path, kind: str, by: str, reason: str, begun: float, why: str) -> None:
    """An act without steps was done: discard, pause, resume. Raises StorageError."""
    append(folder, Switch(kind=kind, by=by, reason=reason, begun=begun, ended=time.time(), outcome="done", why=why))


def append(folder: Path, switch: Switch) -> None:
    path = folder / FILE
    try:
        with path.open("ab+") as file:
            if file.tell() and not _ends_with_line(path):
                file.write(b"\n")
            file.write(msgspec.json.encode(switch) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written", cause=str(error), hint=f"df -h {folder}") from error


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read(folder: Path) -> list[Switch]:
    """Oldest first. Raises StorageError."""
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{folder / FILE} cannot be read", cause=str(error)) from error
    found = []
    for line in lines:
        try:
            found.append(from_json(line, Switch))
        except msgspec.MsgspecError:
            continue
    return found


def lines(switch: Switch) -> list[str]:
    """For the terminal: who, when, why, outcome; then its steps."""
    when, took = time.strftime("%F %T", time.localtime(switch.begun)), show_seconds(switch.ended - switch.begun)
    head = f"{when}  {switch.kind} by {switch.by} ({switch.reason}): {switch.outcome} after {took}"
    return [head, *([f"    {switch.why}"] if switch.why else []), *map(_step_line, switch.steps)]


def _step_line(step: StepRecord) -> str:
    took = "cut off" if step.seconds is None else show_seconds(step.seconds)
    more = f"; FAILED: {step.failure}" if step.failure else ""
    undone = "" if step.undone is None else f"; taken back in {show_seconds(step.undone)}: {step.undo}"
    return f"    {took:>8}  {step.name}: {step.sentence}{more}{undone}"
