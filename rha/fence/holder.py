"""The master's side of the lease: a thread of the engine that asks for it, renews it, and writes the permit.

It decides nothing about time (terms.py) and ends nothing (sentry.py). Whatever happens to it, the permit's end stands.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rha.errors import HostError, RhaError, StateError, StorageError
from rha.fence import permit, sentry, terms
from rha.fence.etcd import Access, Etcd
from rha.fence.permit import Permit
from rha.fence.sentry import SYSTEM
from rha.fence.serving import Host
from rha.fence.taking import key_of
from rha.fence.terms import Move, Next, Seen
from rha.report import LeaseReport
from rha.scenario import Lease, Scenario

LOOK_SECONDS = 0.1
Say = Callable[[str], None]


def permit_path(run_dir: Path, scenario: str) -> Path:
    return run_dir / f"{scenario}.permit"


def master_name() -> str:
    """Who this master is in a lease: this host in this boot, as its clock and all that it serves end with it."""
    return f"master {socket.gethostname()} {permit.boot()}"


class Holder(threading.Thread):
    """One scenario's. Raises ConfigError when a certificate for etcd is unusable."""

    def __init__(self, scenario: Scenario, lease: Lease, run_dir: Path, say: Say, host: Host = SYSTEM) -> None:
        super().__init__(name="lease", daemon=True)
        self._key, self._lease, self._say, self._me = key_of(scenario.name), lease, say, master_name()
        self._host = host
        self._path = permit_path(run_dir, scenario.name)
        self._every = terms.renew_seconds(lease.ttl, lease.stop_limit)
        access = Access(lease.endpoints, lease.ca, lease.certificate, lease.key)
        self._etcd = Etcd(access, max(0.5, self._every))
        self._stopping = threading.Event()
        self._sentry: subprocess.Popen[bytes] | None = None
        self._number = 0  # of the lease in etcd
        self._until: float | None = None
        self._owner: str | None = None
        self._asked = 0.0
        self._failure = ""
        self._said = ""
        self._next = Next(Move.WAIT, "not asked yet")
        self._held_back = ""  # why nothing is served, though the lease is held
        self._permit_lock = threading.Lock()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._next = terms.next_move(self._seen())
            self._tell(self._next.why)
            try:
                self._do(self._next.move)
            except RhaError as error:
                self._failure = str(error).replace("\n", "; ")
            self._stopping.wait(LOOK_SECONDS)
        self._reap()

    def stop(self) -> None:
        """Ends the thread. The lease is not given back: an engine that is started again before its end goes on with it,
        and nothing was interrupted; else the sentry ends serving in time."""
        self._stopping.set()
        if self.ident is not None:
            self.join()

    def _seen(self) -> Seen:
        return Seen(self._me, terms.now(), self._until, self._owner, self._asked, self._every, self._failure)

    def _do(self, move: Move) -> None:
        if move in (Move.ACQUIRE, Move.RENEW):
            self._asked = asked = terms.now()
            self._ensure_sentry()
            granted = self._renewed() if move is Move.RENEW else self._acquired()
            self._failure = ""
            if granted:
                self._until = terms.serve_until(asked, min(granted, self._lease.ttl), self._lease.stop_limit)
                self._allow(self._until)
        elif move is Move.YIELD:
            self._permit(0.0, self._next.why)
            self._until = None

    def _acquired(self) -> float:
        """Seconds granted; 0: another has it. The key of an earlier engine of this boot is taken over."""
        held = self._etcd.read(self._key)
        self._owner = held.value if held else ""
        if held and held.value != self._me:
            return 0.0
        number, granted = self._etcd.grant(int(self._lease.ttl))
        found = self._etcd.put_if(self._key, self._me, lease=number, revision=held.mod_revision if held else 0)
        if found is None or (found.value, found.lease) == (self._me, number):  # the second: an answer that was lost
            self._number, self._owner = number, self._me
            return granted
        self._owner = found.value
        self._etcd.revoke(number)
        return 0.0

    def _renewed(self) -> float:
        """Seconds granted; 0: it has ended. The key is read after the lease was counted anew, and by the majority: a
        leader that was voted out meanwhile and does not know it could answer the first, but not the second."""
        granted = self._etcd.keep_alive(self._number)
        held = self._etcd.read(self._key)
        if held is None or not granted:
            self._owner, self._asked, self._until = "", 0.0, None  # it is asked for at once
            self._permit(0.0, "etcd says that the lease has ended")
            return 0.0
        self._owner = held.value
        return granted if (held.value, held.lease) == (self._me, self._number) else 0.0

    # Handing over ---------------------------------------------------------------------------------------------

    def hold_back(self, why: str) -> None:
        """From now on nothing is served, while the lease is kept: nobody else can take it. Raises StorageError."""
        with self._permit_lock:
            self._held_back = why
            if self.ident is not None:
                self._permit(0.0, why)

    def go_on(self) -> None:
        """Serves again as soon as the lease is held."""
        with self._permit_lock:
            self._held_back, self._asked = "", 0.0  # it is renewed at once

    def hand_over(self, to: str) -> None:
        """Makes the lease another's, in one step: at no moment is it nobody's. May be repeated.

        Raises StateError when this master does not hold it, NetworkError when etcd does not answer.
        """
        held = self._etcd.read(self._key)
        if held and held.value == self._me:
            held = self._etcd.put_if(self._key, to, lease=0, revision=held.mod_revision)
            if held is None:
                return
        if held is None or held.value != to:
            owner = held.value if held and held.value else "nobody"
            raise StateError("this master does not hold its lease", cause=f"{owner} does", hint="rha status")

    def other_owner(self) -> str:
        """Who else holds the lease, asked now; empty: nobody. Raises NetworkError."""
        held = self._etcd.read(self._key)
        return held.value if held and held.value != self._me else ""

    def _allow(self, until: float) -> None:
        with self._permit_lock:
            self._permit(0.0 if self._held_back else until, self._held_back or "the lease could not be renewed")

    # The sentry -----------------------------------------------------------------------------------------------

    def _permit(self, until: float, why: str) -> None:
        """Raises StorageError."""
        words = Permit(until=until, why=why, boot=permit.boot(), engine=os.getpid(), lease=self._lease)
        permit.store(self._path, words)

    def _ensure_sentry(self) -> None:
        """There is one, this engine's or an earlier one's. Without it nothing is renewed: nobody would end serving.

        Raises HostError when it cannot be started, StorageError.
        """
        self._reap()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            free = sentry.lock(self._path)
        except OSError as error:
            raise StorageError(f"{self._path.parent} cannot be used", cause=str(error)) from error
        if free is None:
            return
        os.close(free)
        if permit.load(self._path) is None:
            self._permit(0.0, "the lease is not held yet")
        try:
            words = [sys.executable, "-P", "-m", "rha.fence.sentry", str(self._path), *self._host.systemctl]
            self._sentry = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise HostError("the sentry does not start", cause=str(error)) from error

    def _reap(self) -> None:
        if self._sentry is not None and self._sentry.poll() is not None:
            self._sentry = None

    # Report ---------------------------------------------------------------------------------------------------

    def report(self) -> LeaseReport:
        """The lease as the master sees it."""
        until, standing = self._until, permit.standing(sentry.standing_path(self._path))
        left = until - terms.now() if until is not None else 0.0
        return LeaseReport(
            owner=self._owner or "",
            is_held=left > 0,
            seconds_left=max(0.0, left),
            why=self._next.why,
            serving=standing.state if standing else "ended",
            serving_why=standing.why if standing else "",
        )

    def alarm(self) -> str | None:
        """What a person must know, or None."""
        found = self.report()
        if found.serving == "failed":
            return f"lease: {found.serving_why}"
        return None if found.is_held and not self._failure else f"lease: {found.why}"

    def _tell(self, why: str) -> None:
        kind = "".join(letter for letter in why if not letter.isdigit())
        if kind != self._said:
            self._said = kind
            self._say(f"lease: {why}")
