"""The switchbacks of all scenarios of one appliance: what its daemon asks and is asked about them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from typing import Any

from rha.appliance.offered import Offered
from rha.appliance.replica import Replica
from rha.appliance.returner import Returner
from rha.control.local import Handler
from rha.errors import RhaError, StateError
from rha.fence.taking import Means
from rha.report import Report
from rha.vm.base import VmHost
from rha.wire import tls
from rha.wire.identity import Identity
from rha.wire.messages import Offer


class Returners:
    """Everything may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, Returner] = {}

    def add(self, replica: Replica, vm: VmHost, means: Means) -> None:
        """A scenario is open. What a crash has left of a switchback goes on by itself."""
        returner = Returner(replica, vm, means)
        with self._lock:
            self._of[replica.name] = returner
        returner.recover()

    def drop(self, scenario: str) -> None:
        """It is closed."""
        with self._lock:
            returner = self._of.pop(scenario, None)
        if returner:
            returner.stop()

    def stop(self) -> None:
        """Ends all connections of receivers, and what goes on by itself."""
        with self._lock:
            found = list(self._of.values())
        for returner in found:
            returner.stop()

    def _one(self, scenario: str) -> Returner:
        with self._lock:
            if scenario not in self._of:
                raise StateError(f"no scenario {scenario!r} here", hint="rha status on the appliance")
            return self._of[scenario]

    def serve(self, sock: ssl.SSLSocket, offer: Offer, identity: Identity, peer: str) -> None:
        """A repaired master that offers its disks, until its connection ends. Raises RhaError."""
        try:
            tls.require_master(identity, offer.scenario)
            returner = self._one(offer.scenario)
        except RhaError as error:
            Offered(sock, peer, offer).refuse(error, final=True)
            raise
        returner.serve(sock, peer, offer)

    def why_not_receive(self, scenario: str) -> StateError | None:
        """As Returner.why_not_receive."""
        return self._one(scenario).why_not_receive()

    def fill(self, report: Report) -> Report:
        """Adds receiver and switchback to a scenario's report."""
        with self._lock:
            returner = self._of.get(report.scenario)
        return returner.fill(report) if returner else report

    # Requests -------------------------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Handler]:
        return {"switchback": self._switchback, "abort_switchback": self._abort}

    def _switchback(self, scenario: str, person: str = "operator", reason: str = "", **words: bool) -> Any:
        return self._one(scenario).switchback(person, reason, **words)

    def _abort(self, scenario: str, person: str = "operator", force: bool = False) -> Any:
        return self._one(scenario).abort(person, force=force)

    def guarded(self, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        """The same requests, each about one scenario, refused while a switchback of it stands."""
        return {verb: self._guarded(handler) for verb, handler in handlers.items()}

    def _guarded(self, handler: Handler) -> Handler:
        def ask(**words: Any) -> Any:
            with self._lock:
                returner = self._of.get(str(words.get("scenario")))
            if returner:
                returner.check_idle()
            return handler(**words)

        return ask
