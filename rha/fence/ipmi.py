"""Fencing by the master's management controller: `ipmitool` (Debian package of that name).

The password is read from a file and given through the environment (`-E`): an argument is seen by every user. "Chassis
power off" is a request; only the controller's later "Chassis Power is off" is taken as done.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from rha.errors import ConfigError, HostError, NetworkError, StateError
from rha.fence.base import POLL_SECONDS, Fence
from rha.redirect.base import Deadline
from rha.scenario import FenceIpmi

PORT = 623  # IPMI 2.0, 13.1.2
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class IpmiFence(Fence):
    kind = "ipmi"

    def __init__(self, table: FenceIpmi) -> None:
        self._table, self.limit = table, table.limit
        host, _, port = table.address.partition(":")
        self._where = ["-I", table.interface, "-H", host, "-p", port or str(PORT), "-U", table.user]
        if table.cipher is not None:
            self._where += ["-C", str(table.cipher)]

    def describe(self) -> str:
        return f"switch the master's power off by IPMI at {self._table.address}"

    def check(self, deadline: Deadline) -> str:
        """Raises ConfigError for the password's file, HostError without ipmitool, NetworkError when the controller does
        not let us in."""
        return f"the controller at {self._table.address} answers: the power is {self._power(deadline)}"

    def cut(self, deadline: Deadline) -> str:
        """Raises as `check`, and StateError when the power stays on."""
        if self._power(deadline) == "on":
            self._ask(["power", "off"], deadline)
            while (state := self._power(deadline)) != "off":
                if deadline.is_over:
                    raise StateError(f"the power at {self._table.address} is {state} still")
                deadline.pause(POLL_SECONDS)
        return f"the controller at {self._table.address} says that the power is off"

    def _power(self, deadline: Deadline) -> str:
        said = self._ask(["power", "status"], deadline)
        state = said.removeprefix("Chassis Power is ")
        if state not in ("on", "off"):
            raise NetworkError(f"the controller at {self._table.address} does not say whether power is on", cause=said)
        return state

    def _ask(self, words: list[str], deadline: Deadline) -> str:
        command = ["ipmitool", *self._where, "-E", "-R", "1", "chassis", *words]
        environment = {**os.environ, "IPMI_PASSWORD": self._password(), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=deadline.left(), check=False
            )
        except FileNotFoundError as error:
            raise HostError("ipmitool is not installed", hint="apt install ipmitool") from error
        except subprocess.TimeoutExpired as error:
            raise NetworkError(f"the controller at {self._table.address} does not answer in time") from error
        if done.returncode:
            cause = " | ".join(line for line in done.stderr.splitlines() if line.strip()) or "it said nothing"
            hint = f"ipmitool {' '.join(self._where)} -f {self._table.password} chassis power status"
            raise NetworkError(f"the controller at {self._table.address} refuses", cause=cause, hint=hint)
        return done.stdout.strip()

    def _password(self) -> str:
        path = Path(self._table.password)
        try:
            if path.stat().st_mode & _OTHERS:
                raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            hint = f"install -m 600 /dev/null {path}; then write the controller's password into it"
            raise ConfigError(f"{path} cannot be read", cause=error.strerror or "", hint=hint) from error
