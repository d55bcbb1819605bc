"""What the lease's holder serves by: addresses and systemd units of this host. Begun and ended, each may be repeated.

An address is set with a lifetime, which the kernel enforces whatever becomes of us (terms.py). It leaves before the
units are stopped: clients are cut off within milliseconds, however long a database takes to end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rha import systemd
from rha.errors import HostError, NetworkError, RhaError, StateError
from rha.redirect import links, segment
from rha.scenario import Lease
from rha.units import show_seconds

KILL_SECONDS = 1.0  # of `stop_limit`, for units that were asked in vain
SYSRQ = Path("/proc/sysrq-trigger")


@dataclass(frozen=True)
class Host:
    """This host's service manager. Only tests have another than systemd's own."""

    systemctl: tuple[str, ...] = ("systemctl",)
    sysrq: Path = SYSRQ


class Serving:
    """What one lease names. `say` gets a sentence for each change."""

    def __init__(self, lease: Lease, say: Callable[[str], None], host: Host = Host()) -> None:
        self._lease, self._say, self._host = lease, say, host
        self._units = systemd.Units(host.systemctl)
        self._started = set[str]()
        self._addresses = [ipaddress.ip_interface(text) for text in lease.addresses]

    # Serving --------------------------------------------------------------------------------------------------

    def begin(self, seconds: float) -> bool:
        """Starts what does not run, one unit after the other; once all run, sets the addresses for `seconds`. Waits for
        nothing: called again until it is True.

        Raises NetworkError when another host has one of the addresses, HostError when a unit does not start.
        """
        for unit in self._lease.units:
            if not self._is_up(unit):
                return False
        missing = [address for address in self._addresses if links.holder(address) is None]
        if missing:
            self._must_be_free([address.ip for address in missing])
        self.prolong(seconds)
        if missing:
            segment.announce(links.card(self._lease.interface), [address.ip for address in missing])
            self._say(f"{', '.join(map(str, missing))} on {self._lease.interface}")
        return True

    def _is_up(self, unit: str) -> bool:
        """Does it run? One that is off is told to start. Raises HostError for one that has failed again."""
        state = self._state(unit)
        if state == "active":
            return True
        if state == "failed" and unit in self._started:
            self._started.discard(unit)
            raise HostError(f"{unit} does not start", cause="systemd says: failed", hint=f"journalctl -u {unit}")
        if state in ("inactive", "failed"):
            self._ask("reset-failed", unit)
            done = self._ask("start", "--no-block", unit)
            if done.returncode:
                cause = done.stderr.strip() or f"systemctl ended with {done.returncode}"
                raise HostError(f"{unit} does not start", cause=cause, hint=f"systemctl status {unit}")
            self._started.add(unit)
            self._say(f"{unit} is being started")
        return False

    def _must_be_free(self, wanted: list[segment.IpAddress]) -> None:
        found = segment.owners(links.card(self._lease.interface), wanted)
        if found:
            taken = "; ".join(f"{address} is at MAC {mac}" for address, mac in found.items())
            raise NetworkError("an address of the lease is in use on the segment", cause=taken, hint="rha status")

    def prolong(self, seconds: float) -> None:
        """The addresses for `seconds` from now. Whole seconds, the broken one is lost. Raises NetworkError."""
        for address in self._addresses:
            if int(seconds) >= 1:
                links.set_for(self._lease.interface, address, int(seconds))

    # Ending ---------------------------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """Addresses off, units stopped, killed where that takes too long. Returns what serves still, in sentences."""
        until = time.monotonic() + self._lease.stop_limit
        left = self._take_off()
        running = [unit for unit in reversed(self._lease.units) if not self._units.is_off(unit)]
        for unit in running:
            self._ask("stop", "--no-block", unit)
        running = self._wait_ended(running, until - KILL_SECONDS)
        for unit in running:
            self._say(f"{unit} has not stopped within {show_seconds(self._lease.stop_limit - KILL_SECONDS)}: killed")
            self._ask("kill", "--signal=KILL", unit)
        running = self._wait_ended(running, until)
        return left + [f"{unit} still runs" for unit in running]

    def _take_off(self) -> list[str]:
        left = []
        for address in self._addresses:
            where = links.holder(address)
            if where is None:
                continue
            try:
                links.remove(where.card, ipaddress.ip_interface(where.address))
                self._say(f"{where.address} is removed from {where.card}")
            except RhaError as error:
                left.append(f"{where.address} is on {where.card}: {error.cause}")
        return left

    def _wait_ended(self, units: list[str], until: float) -> list[str]:
        """The units that run still when all have ended or time is up."""
        while units := [unit for unit in units if not self._units.is_off(unit)]:
            if time.monotonic() >= until:
                return units
            time.sleep(0.05)
        return []

    def last_resort(self) -> None:
        """The machine ends now, without a sync: what it would write could only do harm."""
        if self._lease.last_resort == "reboot":
            with contextlib.suppress(OSError):
                self._host.sysrq.write_text("b")

    # systemd --------------------------------------------------------------------------------------------------

    def _state(self, unit: str) -> str:
        return self._units.state(unit)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return systemd.ask(self._host.systemctl, *words)

    def why_not(self) -> RhaError | None:
        """The reason why this host could not serve by this lease, or None. Changes nothing."""
        try:
            if self._addresses:
                links.card(self._lease.interface)
        except RhaError as error:
            return error
        for unit in self._lease.units:
            done = self._ask("show", "--property=LoadState,UnitFileState", unit)
            if done.returncode or "LoadState=loaded" not in done.stdout:
                cause = done.stderr.strip() or "systemd does not know it"
                return HostError(f"{unit} cannot be started by the lease", cause=cause, hint=f"systemctl status {unit}")
            if "UnitFileState=enabled" in done.stdout:
                cause = "at boot systemd would start it before the lease is held: two could serve"
                return StateError(f"{unit} is enabled", cause=cause, hint=f"systemctl disable {unit}: rha starts it")
        return None
