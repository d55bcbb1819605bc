"""A thread that asks both daemons how they are, all the time, and keeps what the verdict needs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from demo import judge, product
from rha.report import Report

EVERY_SECONDS = 0.25


class Observer:
    """`engine`, `appliance`: the last reports. `promise`: the latest time up to which one of them promised everything.

    `failed_over_at`: when the appliance first showed a substitute VM, seconds since the epoch.
    """

    def __init__(self, run_dir: Path, scenario: str) -> None:
        self.engine: Report | None = None
        self.appliance: Report | None = None
        self.promise = 0.0
        self.failed_over_at: float | None = None
        self._scenario = scenario
        self._sockets = {"engine": run_dir / f"engine-{scenario}.sock", "appliance": run_dir / "appliance.sock"}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def is_protected(self) -> bool:
        """True when both sides agree: every disk in write order, and a point to boot from."""
        return (
            self.engine is not None
            and judge.in_write_order(self.engine)
            and self.appliance is not None
            and self.appliance.consistent is not None
        )

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        for role, socket in self._sockets.items():
            asked_at = time.time()
            found = [one for one in product.reports(socket) if one.scenario == self._scenario]
            self.promise = max(self.promise, judge.promised_until(found, asked_at))
            if found and role == "engine":
                self.engine = found[0]
            elif found:
                self._see_appliance(found[0])

    def _see_appliance(self, report: Report) -> None:
        self.appliance = report
        if report.vm is not None and self.failed_over_at is None:
            self.failed_over_at = time.time()
