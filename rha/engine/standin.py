"""What the engine does on a substitute (rha/substitute.py): it captures nothing, connects to nobody and asks for no
lease. It stays, so that `rha status` has an answer there, and serves what the lease names: an engine starts those units
and not systemd, and it is the appliance that holds the lease for the substitute, for as long as that runs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType as StackFrame
from typing import Any

import msgspec

from rha.control import local
from rha.errors import Exit, RhaError, StateError
from rha.fence.serving import Host, Serving
from rha.report import Report
from rha.scenario import Lease, Scenario
from rha.substitute import MARK, Mark

STATE = "substitute"
EVERY_SECONDS = 2.0
ADDRESS_SECONDS = 120.0  # a lifetime, prolonged each time: no address stays when the engine is taken away


class StandIn:
    """One scenario's engine on a substitute. `say` gets a line for each change."""

    def __init__(self, scenario: Scenario, mark: Mark, say: Callable[[str], None], host: Host | None = None) -> None:
        self._scenario, self._mark, self._say = scenario, mark, say
        lease = served_here(scenario)
        self._serving = Serving(lease, say, host or Host()) if lease else None
        self._trouble = ""
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until `stop`. What serves then goes on: the engine may be started again."""
        self._say(self._mark.sentence())
        while not self._stopped.is_set():
            self._serve()
            self._stopped.wait(EVERY_SECONDS)

    def stop(self) -> None:
        self._stopped.set()

    def _serve(self) -> None:
        try:
            if self._serving:
                self._serving.begin(ADDRESS_SECONDS)
            self._trouble = ""
        except RhaError as error:
            trouble = f"{error.what}: {error.cause}"
            if trouble != self._trouble:
                self._say(trouble)
            self._trouble = trouble

    def status(self) -> list[Any]:
        return [msgspec.to_builtins(self.report())]

    def report(self) -> Report:
        return Report(
            role="engine",
            scenario=self._scenario.name,
            mode=self._scenario.mode,
            time=time.time(),
            health="alarm" if self._trouble else "warning",
            state=STATE,
            why=self._mark.sentence(),
            disks=[],
            alarms=[self._trouble] if self._trouble else [],
        )

    def refuse(self, **_: Any) -> None:
        """Raises StateError: what only a master's engine can do."""
        raise StateError(
            "this host is a substitute",
            cause=self._mark.sentence(),
            hint=f"on the master itself, after a switchback by hand: rm {MARK}, restart the engine",
        )


def served_here(scenario: Scenario) -> Lease | None:
    """What the lease names, and the substitute serves. In another network the master's addresses are nobody's."""
    lease = scenario.lease
    if lease and scenario.vm.guest.addresses:
        return msgspec.structs.replace(lease, addresses=[])
    return lease


def run(scenario: Scenario, mark: Mark, socket_path: Path) -> int:
    """The daemon: until SIGTERM or SIGINT."""
    stand_in = StandIn(scenario, mark, lambda line: print(f"rha engine {scenario.name}: {line}", flush=True))

    def on_signal(number: int, frame: StackFrame | None) -> None:
        stand_in.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    refused = {"verify": stand_in.refuse, "history": stand_in.refuse}
    with local.serve(socket_path, {"status": stand_in.status, **refused}):
        stand_in.run()
    return int(Exit.OK)
