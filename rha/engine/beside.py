"""What the engine does beside the stream: it holds the master's lease, hands the service over in a switchover, and asks
systemd about the units of checks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from rha.engine.history import folder_of
from rha.engine.release import Release
from rha.fence import permit
from rha.fence.holder import Holder, permit_path
from rha.redirect.base import master_place
from rha.report import CheckReport, Report
from rha.scenario import Scenario
from rha.watch.ask import ask_all


class Beside:
    """For one scenario. Raises ConfigError when the lease's certificates are unusable, StorageError when it cannot be
    known whether this master was released."""

    def __init__(self, scenario: Scenario, run_dir: Path, say: Callable[[str], None]) -> None:
        self._units = [check for check in scenario.check if check.kind == "unit"]
        self._every = scenario.watch.every
        self._holder = Holder(scenario, scenario.lease, run_dir, say) if scenario.lease else None
        self.release = Release(
            scenario, run_dir, self._holder, master_place(scenario.name, folder_of(scenario.name)), say
        )
        # A permit of this boot: an earlier engine's service may run by it.
        self.is_going_on = permit.load(permit_path(run_dir, scenario.name)) is not None
        self._found: list[CheckReport] = []
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._look, name="units", daemon=True)

    def start(self) -> None:
        if self._holder:
            self._holder.start()
        if self._units:
            self._watch.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._holder:
            self._holder.stop()
        if self._watch.ident is not None:
            self._watch.join()

    def _look(self) -> None:
        while True:
            results = ask_all(self._units, stop=self._stopping)
            if self._stopping.is_set():
                return
            self._found = [result.as_report() for result in results]
            self._stopping.wait(self._every)

    def fill(self, report: Report) -> Report:
        """Adds what is known to the engine's report."""
        report.checks, report.released = self._found, self.release.why()
        if report.released and report.health == "ok":
            report.health = "warning"
        if self._holder:
            report.lease = lease = self._holder.report()
            alarm = self._holder.alarm()
            if alarm and (not report.released or lease.serving == "failed"):  # else it is meant to be so
                report.alarms, report.health = [*report.alarms, alarm], "alarm"
        return report
