"""Asks the guest of a test boot: through forwards, on its console, by its agent.

A guest is only believed when it is really the guest who answers. The host's end of a forward accepts at once, whatever
is behind it; and a check that went to the address in the scenario would be answered by the master.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rha import program
from rha.errors import StateError, VmError
from rha.report import CheckReport
from rha.scenario import BootCheck, Check, Forward
from rha.switch.bootplan import describe, guest_port_of
from rha.switch.ready import ask_through
from rha.units import show_seconds
from rha.vm.base import DomainState, VmHost
from rha.watch import http, script, sql
from rha.watch.base import NoAnswer

POLL_SECONDS = 0.5
CONSOLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Guest:
    """Who is asked. `words`: RHA_… of the environment of scripts; `ended`: why the test is to end, empty while it is
    not; `until`: by the monotonic clock, when the test must be over."""

    vm: VmHost
    domain: str
    forwards: tuple[Forward, ...]
    until: float
    scripts: Path = program.FOLDER
    words: Mapping[str, str] = field(default_factory=dict)
    ended: Callable[[], str] = lambda: ""

    def ask(self, check: BootCheck) -> CheckReport:
        """Until it is answered, or `check.within` is over: that is an answer, too.

        Raises VmError when the domain stops, StateError when the test is to end.
        """
        begun, why = time.monotonic(), "not asked"
        until = min(begun + check.within, self.until)
        while True:
            self.must_run()
            try:
                self._attempt(check)
                return _report(check, True, f"answered after {show_seconds(time.monotonic() - begun)}")
            except NoAnswer as error:
                why = str(error)
            if time.monotonic() + POLL_SECONDS >= until:
                return _report(check, False, f"{why}, for {show_seconds(time.monotonic() - begun)}")
            time.sleep(POLL_SECONDS)

    def must_run(self) -> None:
        """Raises as `ask`."""
        if why := self.ended():
            raise StateError(f"the test is ended: {why}")
        state = self.vm.state(self.domain)
        if state != DomainState.RUNNING:
            raise VmError(f"domain {self.domain} is {state}: the guest has stopped by itself")

    def rest(self, seconds: float) -> None:
        """Lets the guest run for a while. Raises as `ask`."""
        until = min(time.monotonic() + seconds, self.until)
        while time.monotonic() < until:
            self.must_run()
            time.sleep(POLL_SECONDS)

    def _attempt(self, check: BootCheck) -> None:
        if check.kind in ("tcp", "http", "sql"):
            self._through_forward(check)
        elif check.kind == "script":
            script.attempt(as_check(check), check.timeout, self.scripts, self.words)
        else:
            try:
                {"console": self._on_console, "agent": self._by_agent, "unit": self._of_unit}[check.kind](check)
            except VmError as error:
                raise NoAnswer(f"{error.what}: {error.cause}" if error.cause else error.what) from error

    def _through_forward(self, check: BootCheck) -> None:
        port = guest_port_of(check.kind, check.address)
        forward = next((forward for forward in self.forwards if forward.guest_port == port), None)
        if forward is None:
            raise NoAnswer(f"{check.address!r} names no port that is forwarded")
        via = (forward.host, forward.host_port)
        if check.kind == "tcp":
            ask_through(forward, check.timeout, self.vm, self.domain)
        elif check.kind == "http":
            http.attempt(as_check(check), check.timeout, via)
        else:
            sql.attempt(as_check(check), check.timeout, via)

    def _on_console(self, check: BootCheck) -> None:
        if not re.search(check.address, self.vm.console(self.domain, tail_bytes=CONSOLE_BYTES), re.MULTILINE):
            raise NoAnswer("its serial console has not shown it")

    def _by_agent(self, check: BootCheck) -> None:
        self.vm.ask_agent(self.domain, "guest-ping", check.timeout)

    def _of_unit(self, check: BootCheck) -> None:
        """systemd's word, inside the guest."""
        words = {"path": "systemctl", "arg": ["is-active", check.address], "capture-output": True}
        pid = self.vm.ask_agent(self.domain, "guest-exec", check.timeout, **words)["pid"]
        until = time.monotonic() + check.timeout
        while time.monotonic() < until:
            status = self.vm.ask_agent(self.domain, "guest-exec-status", check.timeout, pid=pid)
            if status["exited"]:
                if status.get("exitcode") == 0:
                    return
                said = base64.b64decode(status.get("out-data", "")).decode(errors="replace").strip()
                raise NoAnswer(f"systemd says it is {said or 'not known'}")
            time.sleep(0.1)
        raise NoAnswer(f"systemctl did not answer within {show_seconds(check.timeout)}")


def as_check(check: BootCheck) -> Check:
    """As the files of rha/watch want it."""
    return Check(
        kind=check.kind,  # type: ignore[arg-type]  # console and agent are not asked there
        address=check.address,
        timeout=check.timeout,
        status=check.status,
        contains=check.contains,
        ca=check.ca,
        query=check.query,
        expect=check.expect,
        user=check.user,
    )


def _report(check: BootCheck, answered: bool, said: str) -> CheckReport:
    why = f"{describe(check)}: {said}"
    return CheckReport(kind=check.kind, address=check.address, answered=answered, why=why, time=time.time())
