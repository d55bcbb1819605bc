"""What is kept of test boots: `tests/TIME/` in the scenario's folder, one for each, with report.json and report.txt,
console.log and screen.png. The oldest go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rha import pointsview
from rha.appliance import catalog
from rha.errors import RhaError, StorageError
from rha.report import CheckReport, Point
from rha.switch.lag import Lag
from rha.switch.progress import StepRecord
from rha.units import show_bytes, show_seconds

VERSION = 1
FOLDER, FILE, TEXT, SCREEN, CONSOLE = "tests", "report.json", "report.txt", "screen.png", "console.log"
PASSED, FAILED, UNCHECKED, ENDED, CUT_OFF = "passed", "failed", "unchecked", "ended", "cut off"
BEFORE, DURING, AFTER = "before", "during", "after"


class BootReport(msgspec.Struct, kw_only=True):
    """One test boot. `folder`: its name below `tests/`; `outcome`: passed, failed; unchecked: it ran, and was asked
    nothing; ended: by a person, or as a switch began; cut off: with the appliance. `why`: its sentence. Times: the
    appliance's clock. `lag`: by phase; `screen`: the file, or why there is none; `left`: what could not be cleared up
    yet, empty when nothing of the test is left; `kept`: its VM runs still, for a person.

    Seconds: None where it did not come to that. `ready_seconds`: from the start of the domain.
    """

    version: int = VERSION
    scenario: str
    folder: str
    by: str
    reason: str
    begun: float
    ended: float
    outcome: str
    why: str
    at: str
    point: Point | None = None
    domain: str = ""
    memory: int = 0
    cpus: int = 0
    firmware: str = ""
    firmware_why: str = ""
    bus: str = ""
    accelerator: str = ""
    accelerator_why: str = ""
    open_seconds: float | None = None
    define_seconds: float | None = None
    start_seconds: float | None = None
    ready_seconds: float | None = None
    steps: list[StepRecord] = []
    checks: list[CheckReport] = []
    lag: dict[str, Lag] = {}
    screen: str = ""
    left: str = ""
    kept: bool = False


def make_folder(scenario_folder: Path, begun: float) -> Path:
    """A new folder, named by its time (UTC). Raises StorageError."""
    catalog.make_folder(scenario_folder / FOLDER)
    stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(begun))
    taken = [path.name.removeprefix(stamp) for path in (scenario_folder / FOLDER).glob(f"{stamp}*")]
    number = max((int(name[1:] or 0) + 1 for name in taken), default=0)
    folder = scenario_folder / FOLDER / (f"{stamp}-{number}" if number else stamp)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made", cause=str(error), hint=f"df -h {scenario_folder}") from error
    return folder


def write(scenario_folder: Path, report: BootReport) -> None:
    """Durably, for machines and for people. Raises StorageError."""
    folder = scenario_folder / FOLDER / report.folder
    catalog.save(folder / FILE, report)
    try:
        (folder / TEXT).write_text("".join(f"{line}\n" for line in lines(report)))
    except OSError as error:
        raise StorageError(f"{folder / TEXT} cannot be written", cause=str(error), hint=f"df -h {folder}") from error


def read_all(scenario_folder: Path) -> list[BootReport]:
    """Oldest first. A report that cannot be read, or was never written, is left out."""
    return list(_readable(scenario_folder))


def _readable(scenario_folder: Path) -> Iterator[BootReport]:
    for path in sorted((scenario_folder / FOLDER).glob(f"*/{FILE}")):
        try:
            report = catalog.load(path, BootReport)
        except RhaError:
            continue
        if report:
            yield report


def prune(scenario_folder: Path, keep: int) -> None:
    """Removes all but the newest."""
    folders = sorted(path for path in (scenario_folder / FOLDER).iterdir() if path.is_dir())
    for folder in folders[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def headline(report: BootReport) -> str:
    """`2026-11-25 02:00:13  passed: ready after 21 s, 2 of 2 checks answered`."""
    when = time.strftime("%F %T", time.localtime(report.begun))
    return f"{when}  {report.outcome}: {report.why}"


def lines(report: BootReport) -> Iterator[str]:
    """For people."""
    yield f"{report.scenario}: test boot, {headline(report)}"
    yield f"  asked for by {report.by} ({report.reason}); took {show_seconds(report.ended - report.begun)}"
    if report.point:
        yield f"  point      {report.at}: {pointsview.place(report.point.lsn, report.point.time)}"
    if report.firmware:
        machine = f"{show_bytes(report.memory)}, {report.cpus} CPU, {report.firmware} ({report.firmware_why})"
        yield f"  machine    {report.domain}: {machine}, {report.bus}, {report.accelerator} ({report.accelerator_why})"
    if times := _times(report):
        yield f"  times      {times}"
    for check in report.checks:
        yield f"  {'check' if check.answered else 'FAILED':<10} {check.why}"
    for phase, lag in report.lag.items():
        yield f"  lag        {phase:<6} {_lag(lag)}"
    for step in report.steps:
        if step.failure:
            yield f"  FAILED     {step.name}: {step.failure}"
    yield f"  screen     {report.screen}"
    if report.kept:
        yield f"  kept       domain {report.domain} runs; end it with: rha test {report.scenario} --end"
    if report.left:
        yield f"  LEFT       {report.left}; it is tried again"


def _times(report: BootReport) -> str:
    known = (
        ("open", report.open_seconds),
        ("define", report.define_seconds),
        ("start", report.start_seconds),
        ("ready", report.ready_seconds),
    )
    return ", ".join(f"{name} {show_seconds(seconds)}" for name, seconds in known if seconds is not None)


def _lag(lag: Lag) -> str:
    delay = "RPO not known" if lag.seconds is None else f"RPO {show_seconds(lag.seconds)}"
    applied = show_bytes(lag.last_lsn - lag.first_lsn)
    return f"at most {show_bytes(lag.bytes)}, {delay}; {applied} of the stream applied, {lag.looks} looks"
