"""This host's service manager, asked by `systemctl`: is a unit up, start it, stop it, within a time limit."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from rha.errors import HostError
from rha.units import show_seconds

SYSTEMCTL = ("systemctl",)
ASK_SECONDS = 1.0  # within SLACK_SECONDS of rha/fence/terms.py: the sentry does nothing else meanwhile
POLL_SECONDS = 0.05
OFF = ("inactive", "failed")


def ask(systemctl: Sequence[str], *words: str, timeout: float = ASK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Exit code 255, with the reason as its standard error, when systemctl cannot be run or does not end in time."""
    command = [*systemctl, *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 255, "", str(error))


class Units:
    """`systemctl`: the command; only tests have another than systemd's own."""

    def __init__(self, systemctl: Sequence[str] = SYSTEMCTL) -> None:
        self._systemctl = systemctl

    def state(self, unit: str) -> str:
        """Its ActiveState; `unknown`: systemd has not answered."""
        done = ask(self._systemctl, "show", "--property=ActiveState", "--value", unit)
        return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"

    def is_off(self, unit: str) -> bool:
        """A manager that does not answer is no proof that a unit has ended."""
        return self.state(unit) in OFF

    def why_not(self, unit: str) -> HostError | None:
        """The reason why it cannot be stopped and started here, or None. One that is not there would pass for off."""
        done = ask(self._systemctl, "show", "--property=LoadState", "--value", unit)
        state = done.stdout.strip()
        if done.returncode == 0 and state == "loaded":
            return None
        cause = done.stderr.strip() or f"systemd says: {state or 'nothing'}"
        return HostError(f"{unit} is no unit of this host", cause=cause, hint=f"systemctl status {unit}")

    def stop(self, unit: str, limit: float) -> None:
        """Waits until it has ended. Raises HostError when it has not after `limit` seconds; it is not killed."""
        self._order("stop", unit)
        until = time.monotonic() + limit
        while not self.is_off(unit):
            if time.monotonic() >= until:
                raise HostError(
                    f"{unit} does not stop",
                    cause=f"{self.state(unit)} after {show_seconds(limit)}",
                    hint=f"systemctl status {unit}; a longer switch.limit in the scenario",
                )
            time.sleep(POLL_SECONDS)

    def start(self, unit: str, limit: float) -> None:
        """Waits until it is active. Raises HostError when it fails, or is not after `limit` seconds."""
        if self.state(unit) == "failed":
            ask(self._systemctl, "reset-failed", unit)
        self._order("start", unit)
        until = time.monotonic() + limit
        while (state := self.state(unit)) != "active":
            if state == "failed" or time.monotonic() >= until:
                cause = f"systemd says: {state}, after at most {show_seconds(limit)}"
                raise HostError(f"{unit} does not start", cause=cause, hint=f"journalctl -u {unit}")
            time.sleep(POLL_SECONDS)

    def power_off(self) -> None:
        """The host shuts down soon. Raises HostError."""
        self._order("poweroff", "")

    def _order(self, verb: str, unit: str) -> None:
        done = ask(self._systemctl, verb, "--no-block", *filter(None, [unit]), timeout=10 * ASK_SECONDS)
        if done.returncode:
            cause = done.stderr.strip() or f"systemctl ended with {done.returncode}"
            what = f"{unit} cannot be told to {verb}" if unit else f"this host cannot be told to {verb}"
            raise HostError(what, cause=cause, hint=f"systemctl status {unit}".strip())
