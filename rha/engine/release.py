"""The master's part of a switchover: it stands still, hands its service over, or takes it back.

- *serves*: nothing is noted. `release` ends it.
- *released*: its units are stopped, its lease serves nobody, everything written lies below a known LSN. Ends by
  `hand_over` or `resume`; by itself, as `resume`, when the appliance is away for RESUME_SECONDS.
- *handed over*: it serves no more, whatever happens to the appliance or the link. Ends by `resume` only.

So a link that breaks before `hand_over` costs a minute of service and never two writers: the appliance starts nothing
before that order was answered, and the master takes nothing back after it.

The note lies in the run directory, in memory. On a protected disk the substitute would find it, and a reboot ends it as
it ends all else: then systemd starts what is enabled. Who must not serve after a reboot either has a lease, or is
powered off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from rha.decoding import from_json
from rha.errors import HostError, RhaError, StateError, StorageError
from rha.fence import permit
from rha.fence.holder import Holder, permit_path
from rha.fence.sentry import SYSTEM, standing_path
from rha.fence.serving import Host
from rha.redirect import run as redirect
from rha.redirect.base import Place
from rha.scenario import Scenario
from rha.systemd import Units
from rha.units import show_seconds

RESUME_SECONDS = 60.0
RETRY_SECONDS = 10.0
POLL_SECONDS = 0.05
Say = Callable[[str], None]


class Note(msgspec.Struct, kw_only=True):
    """`units`: those that ran and were told to stop, in this order. `since`: this host's clock. `to`: who has the
    service now; empty: nobody yet. Worth nothing in another boot."""

    boot: str
    since: float
    units: list[str] = []
    to: str = ""


class Writes(Protocol):
    """What the engine knows of the disks."""

    def must_be_ordered(self) -> None:
        """Raises StateError when the disks are not in write order."""

    def settle(self) -> list[str]:
        """Everything written until now is on the disks. Sentences. Raises StateError when they are not in write order,
        DeviceError."""

    def position(self) -> tuple[float, int]:
        """The clock, and the LSN below which every write is that was submitted before."""


class Release:
    """One scenario's. Everything may be called from any thread, and again."""

    def __init__(
        self, scenario: Scenario, run_dir: Path, holder: Holder | None, place: Place, say: Say, host: Host = SYSTEM
    ) -> None:
        """`place`: where the master gives up what clients know it by."""
        self._scenario, self._holder, self._place, self._say = scenario, holder, place, say
        self._units = Units(host.systemctl)
        self._path = run_dir / f"{scenario.name}.released"
        self._permit_path = permit_path(run_dir, scenario.name)
        self._lock = threading.Lock()
        self._note = _load(self._path)
        self._heard, self._again = time.monotonic(), 0.0
        self._resuming: threading.Thread | None = None
        if self._note and holder:
            holder.hold_back(self.why())

    def why(self) -> str:
        """The sentence of why this master does not serve; empty while it does."""
        note = self._note
        if note is None:
            return ""
        since = time.strftime("%F %T", time.localtime(note.since))
        return f"handed over to {note.to} (released {since})" if note.to else f"released for a switchover since {since}"

    # Orders ---------------------------------------------------------------------------------------------------

    def check(self, writes: Writes) -> None:
        """Raises what `release` would before it stops anything: StateError, HostError for a unit that is not there."""
        self._must_be_able()
        for unit in self._scenario.switch.units:
            if why := self._units.why_not(unit):
                raise why
        writes.must_be_ordered()

    def release(self, writes: Writes) -> tuple[float, int, list[str]]:
        """Stops what the scenario names. Returns a time (this host's clock), the LSN below which everything is that was
        submitted before it, and what was done.

        Raises as `check`; HostError when a unit does not stop, DeviceError: then everything runs again.
        """
        with self._lock:
            self.check(writes)
            try:
                said = [*self._stop(), *writes.settle()]
            except Exception:
                if self._note and not self._note.to:
                    self._take_back()
                raise
            now, lsn = writes.position()
        return now, lsn, said

    def hand_over(self, to: str) -> str:
        """The service is another's from now on; only now the master gives up what clients know it by, since its disks
        tell that, too, and the substitute is made of what they were before.

        Raises StateError when it was taken back meanwhile, or the lease is not held; NetworkError when etcd does not
        answer; what a redirection raises.
        """
        with self._lock:
            note = self._note
            if note is None:
                raise StateError(
                    f"the master of {self._scenario.name} serves",
                    cause="it has taken its service back, or has rebooted",
                    hint="begin the switchover anew",
                )
            if self._scenario.redirect:
                redirect.apply(self._scenario.redirect, self._place, self._say)
            if self._holder:
                self._holder.hand_over(to)
            note.to = note.to or to
            self._store(note)
            return self._told(self.why())

    def power_off(self) -> str:
        """Shuts this host down. Raises StateError unless the scenario says so and the service is handed over."""
        with self._lock:
            if self._scenario.switch.after != "poweroff":
                cause = f'switch.after of its scenario is "{self._scenario.switch.after}"'
                raise StateError("the master is not to be powered off", cause=cause)
            if self._note is None or not self._note.to:
                raise StateError("the master is not powered off", cause="its service is not handed over")
            self._units.power_off()
            return self._told("this host shuts down")

    def resume(self) -> str:
        """Takes the service back. Raises StateError while another has the lease, NetworkError when etcd is silent,
        HostError when a unit does not start; the note stays then, and this has to be repeated."""
        with self._lock:
            if self._note is None:
                return "the master serves"
            self._take_back()
            return self._told("the master serves again")

    # Stopping and starting ------------------------------------------------------------------------------------

    def _must_be_able(self) -> None:
        """Raises StateError."""
        if not self._scenario.switch.units and self._scenario.lease is None:
            raise StateError(
                "the master cannot be made to stand still",
                cause="its scenario names neither switch.units nor a [lease]: its applications would go on writing",
                hint="name in [switch] what is to be stopped: units = [...]",
            )

    def _stop(self) -> list[str]:
        """Raises HostError. A unit is noted before it is stopped: killed between, we start one that still runs."""
        note = self._note or Note(boot=permit.boot(), since=time.time())
        self._store(note)
        lease, said = self._scenario.lease, list[str]()
        wanted = [*self._scenario.switch.units, *reversed(lease.units if lease else [])]
        for unit in dict.fromkeys(wanted):
            if self._units.is_off(unit):
                continue
            note.units = [*dict.fromkeys([*note.units, unit])]
            self._store(note)
            begun = time.monotonic()
            self._units.stop(unit, self._scenario.switch.limit)
            said.append(self._told(f"{unit} has stopped after {show_seconds(time.monotonic() - begun)}"))
        return [*said, *self._end_lease()]

    def _end_lease(self) -> list[str]:
        """Raises HostError when the sentry has not ended serving."""
        if not self._holder or not self._scenario.lease:
            return []
        self._holder.hold_back(self.why())
        self._wait_standing("ended", self._scenario.lease.stop_limit + RETRY_SECONDS)
        return ["what the lease serves by has ended"]

    def _take_back(self) -> None:
        """The lock is held; what fails keeps nothing else back. Raises HostError, StateError, NetworkError."""
        assert self._note is not None
        lease, limit = self._scenario.lease, self._scenario.switch.limit
        if self._holder and lease:
            if owner := self._holder.other_owner():
                cause = f"{owner} has it; an appliance gives it back once its substitute is gone"
                raise StateError("another holds the lease of this master", cause=cause, hint="rha status")
            self._holder.go_on()
            self._wait_standing("serving", lease.ttl + RETRY_SECONDS + limit * len(lease.units))
        failures = list[RhaError]()
        self._try(lambda: redirect.revert(self._place, self._say), failures)
        for unit in reversed(self._note.units):
            if not lease or unit not in lease.units:  # those the sentry has started
                self._try(lambda unit=unit: self._start(unit), failures)  # type: ignore[misc]
        if failures:
            causes = "\n       ".join(f"{error.what}: {error.cause}" for error in failures)
            raise HostError("the master does not serve as before", cause=causes, hint=failures[0].hint)
        self._path.unlink(missing_ok=True)
        self._note = None

    def _start(self, unit: str) -> None:
        self._units.start(unit, self._scenario.switch.limit)
        self._say(f"{unit} runs again")

    @staticmethod
    def _try(act: Callable[[], object], failures: list[RhaError]) -> None:
        try:
            act()
        except RhaError as error:
            failures.append(error)

    def _wait_standing(self, state: str, limit: float) -> None:
        """Until the sentry says so. Raises HostError after `limit` seconds."""
        until = time.monotonic() + limit
        path = standing_path(self._permit_path)
        while (found := permit.standing(path)) is None or found.state != state:
            if time.monotonic() >= until:
                why = f"{found.state}: {found.why}" if found else "the sentry says nothing"
                raise HostError(f"what the lease serves by is not {state}", cause=why, hint="rha status")
            time.sleep(POLL_SECONDS)

    # By itself ------------------------------------------------------------------------------------------------

    def tend(self, *, connected: bool) -> None:
        """About once a second. An appliance that is away and was handed nothing does not keep the service down."""
        now, note = time.monotonic(), self._note
        if connected or note is None or note.to:
            self._heard = now
        elif now - self._heard > RESUME_SECONDS and now > self._again:
            self._again = now + RETRY_SECONDS
            if self._resuming is None or not self._resuming.is_alive():
                self._resuming = threading.Thread(target=self._resume_alone, name="resume", daemon=True)
                self._resuming.start()

    def _resume_alone(self) -> None:
        try:
            with self._lock:
                if self._note is None or self._note.to:
                    return
                self._say(f"no appliance for {show_seconds(RESUME_SECONDS)}: the service is taken back")
                self._take_back()
        except RhaError as error:
            self._say(str(error).replace("\n", "; "))

    def _told(self, sentence: str) -> str:
        self._say(sentence)
        return sentence

    def _store(self, note: Note) -> None:
        """Raises StorageError."""
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            draft.write_bytes(msgspec.json.encode(note))
            draft.replace(self._path)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written", cause=str(error)) from error
        self._note = note


def _load(path: Path) -> Note | None:
    """Raises StorageError when it cannot be read: whether this master may serve is not known then."""
    try:
        note = from_json(path.read_bytes(), Note)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        hint = f"does the appliance's substitute serve? If not, remove {path}"
        raise StorageError(f"{path} cannot be read", cause=str(error), hint=hint) from error
    return note if note.boot == permit.boot() else None
