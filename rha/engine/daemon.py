"""The engine's daemon: one scenario on the master, as a process."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType as StackFrame
from typing import Any

import msgspec

from rha import scenario_check, substitute
from rha.capture import pins
from rha.control import local
from rha.engine import lastrun, standin
from rha.engine.attach import Attached, attach
from rha.engine.beside import Beside
from rha.engine.engine import Engine
from rha.engine.history import History, folder_of
from rha.errors import Exit, HostError, RhaError, StateError
from rha.scenario import Scenario
from rha.wire import tls

ATTACH_AGAIN_SECONDS = 5.0


def run(scenario_path: Path) -> int:
    """The daemon: runs until SIGTERM or SIGINT.

    Raises RhaError when it cannot start.
    """
    scenario = scenario_check.load(scenario_path)
    if os.geteuid() != 0:
        raise HostError("the engine must run as root", cause=f"user {os.geteuid()}", hint="sudo rha engine …")
    socket_path = local.RUN_DIR / f"engine-{scenario.name}.sock"
    if local.answers(socket_path):
        raise StateError(
            f"an engine for {scenario.name} is running", cause=f"it answers on {socket_path}", hint="rha status"
        )
    mark = substitute.load()
    if mark:
        return standin.run(scenario, mark, socket_path)
    tls.client_context(*map(Path, (scenario.appliance.ca, scenario.appliance.certificate, scenario.appliance.key)))
    beside = Beside(scenario, local.RUN_DIR, lambda line: print(f"rha engine {scenario.name}: {line}", flush=True))
    try:
        return _serve(scenario, beside, socket_path)
    finally:
        beside.stop()


def _serve(scenario: Scenario, beside: Beside, socket_path: Path) -> int:
    """Before a service begins its writes must be captured; one that an earlier engine let begin goes on meanwhile."""
    if beside.is_going_on:
        beside.start()
    attached = attach(scenario)
    if not beside.is_going_on:
        beside.start()
    folder = folder_of(scenario.name)
    for why in filter(None, [lastrun.save(folder, ended=False)]):
        print(f"rha engine {scenario.name}: {why}", flush=True)
    history = History(folder)
    service = _Service(scenario, attached, history, beside)
    signal.signal(signal.SIGTERM, service.on_signal)
    signal.signal(signal.SIGINT, service.on_signal)
    handlers = {"status": service.status, "verify": service.verify, "history": history.recent, "resume": service.resume}
    with local.serve(socket_path, handlers):
        service.run()
    lastrun.save(folder, ended=True)
    history.close()
    return int(Exit.OK)


class _Service:
    """One engine after another: a device that became another one needs another probe, the daemon stays."""

    def __init__(self, scenario: Scenario, attached: Attached, history: History, beside: Beside) -> None:
        self._scenario, self._history, self._beside = scenario, history, beside
        self._engine = self._begin(attached)
        self._stopped = threading.Event()

    def _begin(self, attached: Attached) -> Engine:
        print(f"rha engine {self._scenario.name}: {attached.sentence}", flush=True)
        engine = Engine(self._scenario, attached, self._history)
        engine.add, engine.release = self._beside.fill, self._beside.release
        return engine

    def run(self) -> None:
        while True:
            self._engine.run()
            before = self._engine
            attached = None if self._stopped.is_set() else self._attach_again()
            if attached:
                self._engine = self._begin(attached)
            before.capture.close()
            if not attached:
                return

    def _attach_again(self) -> Attached | None:
        """Tries until it succeeds, or until the daemon is told to stop. Meanwhile the old engine's report stands, with
        its alarm."""
        said = self._engine.must_attach_again
        while not self._stopped.is_set():
            print(f"rha engine {self._scenario.name}: {said}", flush=True)
            try:
                return attach(self._scenario)
            except (RhaError, OSError) as error:
                said = str(error).replace("\n", "; ")
            self._stopped.wait(ATTACH_AGAIN_SECONDS)
        return None

    def on_signal(self, number: int, frame: StackFrame | None) -> None:
        self._stopped.set()
        self._engine.stop()

    def status(self) -> list[Any]:
        return [msgspec.to_builtins(self._engine.report())]

    def verify(self) -> dict[str, Any]:
        return self._engine.verify()

    def resume(self) -> dict[str, Any]:
        """A person on the master takes the service back."""
        return {"sentence": self._beside.release.resume()}


def unload(scenario: Scenario) -> bool:
    """Takes the probe of a scenario out of the kernel. True when there was one.

    Raises StateError while its engine runs.
    """
    if local.answers(local.RUN_DIR / f"engine-{scenario.name}.sock"):
        raise StateError(
            f"the engine of {scenario.name} is running", cause="it would lose its probe", hint="stop it first"
        )
    return pins.remove(scenario.name)
