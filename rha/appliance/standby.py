"""Gets ready what a failover would else wait for, while nothing is lost yet; and says early what would be in its way.

An appliance fails over once in years, so the first time counts. What is slow in it once after each boot or update, by
measurement on two busy cores: libvirt looks at its emulators (8 s), the accelerator is tried (8 s where kvm hangs),
netlink and DNS are loaded (0.3 s). A libvirt that systemd has ended since nobody was connected comes on top.

None of it is a check that a failover leaves out: it asks again for everything, and is answered at once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rha.errors import RhaError
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.report import Report
from rha.scenario import Scenario
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import VmHost
from rha.vm.guest import outside, wanted

LOOK_SECONDS = 30.0


class Standby(threading.Thread):
    """`scenarios`: those that the appliance has now. `add_to` may be called from any thread."""

    def __init__(
        self,
        vm: VmHost,
        store: Path,
        scenarios: Callable[[], list[Scenario]],
        choose_accelerator: Callable[[str], Accelerator] = choose,
    ) -> None:
        super().__init__(name="standby", daemon=True)
        self._vm, self._store, self._scenarios, self._choose = vm, store, scenarios, choose_accelerator
        self._stopping = threading.Event()
        self._troubles: dict[str, str] = {}  # by scenario

    def run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(LOOK_SECONDS)

    def stop(self) -> None:
        """Ends it soon. It is not waited for: libvirt may take its time."""
        self._stopping.set()

    def look(self) -> None:
        """Gets ready for every scenario; what is in the way is said when it is news."""
        found = {scenario.name: why for scenario in self._scenarios() if (why := self._why_not_ready(scenario))}
        for name in sorted(found.keys() | self._troubles.keys()):
            if found.get(name) != self._troubles.get(name):
                said = found.get(name, "a failover would be possible again")
                print(f"rha appliance: {name}: {said}", file=sys.stderr, flush=True)
        self._troubles = found

    def _why_not_ready(self, scenario: Scenario) -> str:
        """A sentence; empty: all is ready."""
        try:
            self._vm.prepare()
            self._choose(scenario.vm.accelerator)
            redirect.prepare(scenario.redirect, replica_place(scenario.name, self._store / scenario.name))
            if scenario.vm.guest.required and wanted.sentence(scenario) and (error := outside.why_not()):
                raise error
        except RhaError as error:
            return "; ".join(filter(None, [f"a failover would fail now: {error.what}", error.cause, error.hint]))
        except Exception as error:  # noqa: BLE001 - a bug here must neither end the looking nor be hidden
            return f"bug in getting ready: {error!r}"
        return ""

    def add_to(self, report: Report) -> Report:
        """What is in the way of a failover that nobody is asked about is an alarm; of another, it stands in the log."""
        why = self._troubles.get(report.scenario)
        if why and report.mode == "ha":
            report.alarms = [*report.alarms, why]
            report.health = "alarm"
        return report
