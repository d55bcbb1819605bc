"""`rha receive`: offers a repaired master's disks to the appliance until everything is on them."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rha.capture import pins
from rha.control import local
from rha.engine.receiving import Done, Refused, Session, offer_of
from rha.engine.target import Target
from rha.errors import ConfigError, HostError, NetworkError, RhaError, StateError
from rha.scenario import Scenario
from rha.units import show_bytes
from rha.wire import tls

RETRY_SECONDS = 3.0
SAY_SECONDS = 10.0
Say = Callable[[str], None]


def devices_of(scenario: Scenario, given: Mapping[str, str]) -> dict[str, str]:
    """The device of each disk: the scenario's, or what was given in its place. Raises ConfigError."""
    names = [disk.name for disk in scenario.disk]
    strangers = [name for name in given if name not in names]
    if strangers:
        raise ConfigError(
            f"scenario {scenario.name} has no disk {strangers[0]}",
            cause=f"it has: {', '.join(names)}",
            hint=f"--disk {names[0]}=DEVICE",
        )
    return {disk.name: given.get(disk.name, disk.device) for disk in scenario.disk}


def open_targets(scenario: Scenario, given: Mapping[str, str], stack: ExitStack) -> list[Target]:
    """All disks, held until the stack ends.

    Raises HostError for others than root, StateError while the scenario's engine runs here, ConfigError, DeviceError.
    """
    if os.geteuid() != 0:
        raise HostError(
            "disks can be overwritten by root only", cause=f"user {os.geteuid()}", hint="sudo rha receive …"
        )
    if local.answers(local.RUN_DIR / f"engine-{scenario.name}.sock"):
        raise StateError(
            f"the engine of {scenario.name} runs on this host",
            cause="it watches the disks that would be overwritten",
            hint=f"systemctl stop rha-engine@{scenario.name}",
        )
    targets = []
    for name, path in devices_of(scenario, given).items():
        target = Target(name, path)
        stack.callback(target.close)
        targets.append(target)
    return targets


class Receiver:
    """Connects again after each break, until everything is here or `stop` is called."""

    def __init__(self, scenario: Scenario, targets: Sequence[Target], say: Say) -> None:
        """Raises ConfigError, NetworkError when the certificates cannot be used."""
        self._scenario, self._targets, self._say = scenario, targets, say
        files = (scenario.appliance.ca, scenario.appliance.certificate, scenario.appliance.key)
        self._context = tls.client_context(*map(Path, files))
        self._receiver = secrets.token_hex(16)
        self._stopped = threading.Event()
        self._session: Session | None = None
        self._said = ""
        self._finished = False

    def stop(self) -> None:
        """Ends `run` soon; may be called from any thread."""
        self._stopped.set()
        if self._session:
            self._session.stop()

    def run(self) -> bool:
        """True when the disks are as the substitute left them; False when it was stopped before.

        Raises Refused, ConfigError and DeviceError, after which trying again does not help.
        """
        if pins.remove(self._scenario.name):
            self._say("the probe of an earlier engine is unloaded: the next one compares everything anyway")
        while not self._stopped.is_set():
            try:
                if self._serve_once():
                    return True
            except Refused as error:
                if self._finished:  # the answer has come through after all: nothing more is wanted of us
                    return True
                if error.final:
                    raise
                self._tell(error)
            except NetworkError as error:
                self._tell(error)
            self._stopped.wait(RETRY_SECONDS)
        return False

    def _tell(self, error: RhaError) -> None:
        """Once: it is tried again every few seconds."""
        line = f"waiting: {error}".replace("\n", "; ")
        if line != self._said:
            self._said = line
            self._say(line)

    def _serve_once(self) -> bool:
        with tls.connect(self._scenario.appliance.address, self._context, self._scenario.link.lost_after * 4) as sock:
            session = self._session = Session(
                sock, offer_of(self._scenario.name, self._receiver, self._targets), self._targets
            )
            taken = session.greet()
            self._tell_connected(taken.host)
            watch = _Watch(session.done, self._say)
            watch.start()
            try:
                return session.run()
            finally:
                self._finished = self._finished or session.is_finished
                watch.stop()

    def _tell_connected(self, host: str) -> None:
        self._said = f"offered to {host}; there: rha switchback {self._scenario.name}"
        self._say(self._said)


class _Watch(threading.Thread):
    """Says now and then how far it is, when that has changed."""

    def __init__(self, done: Done, say: Say) -> None:
        super().__init__(name="progress", daemon=True)
        self._done, self._say, self._stopping = done, say, threading.Event()

    def run(self) -> None:
        said, before, at = "", 0, time.monotonic()
        while not self._stopping.wait(SAY_SECONDS):
            done, now = self._done, time.monotonic()
            rate = (done.compared - before) / (now - at)
            line = f"compared {show_bytes(done.compared)}, written {show_bytes(done.written)}"
            if line != said:
                self._say(f"{line}, {show_bytes(rate)}/s")
            said, before, at = line, done.compared, now

    def stop(self) -> None:
        self._stopping.set()
        self.join()
