"""One scenario's switchback on the appliance: the receiver that is connected, the act, and what is left of one after a
crash."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

import msgspec

import rha
from rha.appliance.offered import Offered
from rha.appliance.replica import Replica
from rha.appliance.return_host import Home
from rha.errors import NetworkError, RhaError, StateError, StorageError
from rha.fence.taking import Means
from rha.image import formats
from rha.report import Report, ReturnReport
from rha.switch import progress as ledger
from rha.switch import returned
from rha.switch.progress import ROLLING_BACK, SERVING, trigger
from rha.switch.return_run import go_on, look, run_switchback, take_back_by_hand
from rha.switch.returning import Back
from rha.switch.switchback import BackStep, is_past_return, plan
from rha.vm.base import DomainState, VmHost
from rha.wire.messages import PROTOCOL, Offer, Taken

RETRY_SECONDS = 5.0
LATE_SECONDS = 600.0
MEASURED = (BackStep.COPY, BackStep.CATCH_UP, BackStep.LAST_PASS, BackStep.VERIFY)


class Returner:
    """`means`: by which the appliance reaches the lease. Everything may be called from any thread."""

    def __init__(self, replica: Replica, vm: VmHost, means: Means) -> None:
        self.replica, self.folder, self._vm = replica, replica.folder, vm
        self._home = Home(replica, vm, means)
        self._say = self._home.say
        self._back: Back | None = None
        self._stopping = threading.Event()
        self._going_on: threading.Thread | None = None
        self._trouble = ""

    # The receiver's connection ---------------------------------------------------------------------------------

    def serve(self, sock: ssl.SSLSocket, peer: str, offer: Offer) -> None:
        """One receiver, until it ends. A new one takes the place of an old one that nobody works with.

        Raises RhaError, after the receiver was told.
        """
        offered = Offered(sock, peer, offer)
        taken = self._take(offered)
        self._home.take(offered)
        try:
            offered.take(taken)
            self._say(f"{peer} ({offer.host}) offers its disks")
            offered.serve()
        finally:
            self._home.forget(offered)

    def _take(self, offered: Offered) -> Taken:
        """The answer to an offer. Raises RhaError, after the receiver was told why not."""
        try:
            if refusal := self._why_not_take(offered.offer):
                offered.refuse(refusal[0], final=refusal[1])
                raise refusal[0]
            sizes = self._sizes()
        except StorageError as error:  # of what lies here: it may be mended
            offered.refuse(error, final=False)
            raise
        return Taken(
            protocol=PROTOCOL,
            version=rha.__version__,
            host=socket.gethostname(),
            disks=list(sizes),
            bytes=list(sizes.values()),
        )

    def _why_not_take(self, offer: Offer) -> tuple[RhaError, bool] | None:
        """The refusal, and whether trying again is of no use."""
        name = self.replica.name
        if offer.protocol != PROTOCOL:
            cause = f"the receiver ({offer.version}) speaks protocol {offer.protocol}, this appliance {PROTOCOL}"
            return NetworkError("receiver and appliance do not understand each other", cause=cause), True
        own, past = returned.load(self.folder), ledger.load(self.folder)
        if own and BackStep.HAND_OVER in own.ended:
            return StateError(f"the master of {name} has its disks already", hint="boot it"), True
        if past is None or past.state != SERVING:
            cause = past.sentence() if past else "it has not failed over"
            return StateError(f"no substitute of {name} serves", cause=cause, hint="rha status on the appliance"), False
        busy, other = self._back, self._home.receiver()
        if busy and other and busy.copy.receiver_id == other.id != offer.receiver:
            return StateError(f"another receiver of {name} is at work", cause=other.peer, hint="end it first"), False
        return None

    def _sizes(self) -> dict[str, int]:
        past = ledger.load(self.folder)
        images = past.images if past else []
        return {image.name: formats.info(Path(image.overlay)).virtual_size for image in images}

    # The act ---------------------------------------------------------------------------------------------------

    def switchback(
        self,
        person: str,
        reason: str,
        *,
        dry_run: bool = False,
        force: bool = False,
        verify_all: bool = False,
        overwrite: bool = False,
    ) -> dict[str, object]:
        """The answer to `rha switchback`: `sentence` and `steps`. Blocks until it is done, or taken back.

        Raises as `run_switchback`.
        """
        if dry_run:
            steps = plan(look(self._home, self._vm, force=force, verify_all=verify_all, overwrite=overwrite))
            return {"sentence": "nothing was changed", "steps": [step.sentence for step in steps]}
        self._home.greeted = False
        try:
            progress = run_switchback(
                self._home,
                self._vm,
                trigger(person, reason or "asked for by a person"),
                force=force,
                verify_all=verify_all,
                overwrite=overwrite,
                say=self._say,
                watch=self._work_with,
            )
        except RhaError:
            if self._back and BackStep.STOP_GUEST in self._back.progress.begun:
                threading.Thread(target=self._keep_running, name="late-shutdown", daemon=True).start()
            raise
        finally:
            self._back = None
            self.recover()
        return {"sentence": progress.sentence(), "steps": [step.sentence for step in progress.steps]}

    def _work_with(self, back: Back) -> None:
        self._back = back

    def _keep_running(self) -> None:
        """A guest that was asked to shut down, and was too slow, may obey when all has been taken back."""
        until = time.monotonic() + LATE_SECONDS
        while not self._stopping.wait(1.0) and time.monotonic() < until:
            past = ledger.load(self.folder)
            if returned.load(self.folder) or past is None or past.state != SERVING:
                return
            if self._vm.state(past.domain) == DomainState.OFF:
                self._say(f"domain {past.domain} has shut down after all: it is started again")
                self._start_again(past.domain)

    def _start_again(self, domain: str) -> None:
        try:
            self._vm.start(domain)
        except RhaError as error:  # tried again in a second, and said each time
            self._say(str(error).replace("\n", "; "))

    def abort(self, person: str, *, force: bool = False) -> dict[str, object]:
        """The answer to `rha switchback --abort`. `force`: the person answers for it that the master does not serve.

        Raises StateError when there is nothing to break off, or the master may know already that it may boot.
        """
        own, back = returned.load(self.folder), self._back
        if own is None:
            raise StateError(f"no switchback of {self.replica.name} is at work", hint="rha status")
        if is_past_return(own.begun):
            if not force:
                raise StateError(
                    f"the master of {self.replica.name} may have been told that it may boot",
                    cause=own.sentence(),
                    hint="see that it is off and stays off; then --abort --force starts the substitute again",
                )
            return {"sentence": take_back_by_hand(self._home, self._vm, person, self._say).sentence()}
        if back:
            back.copy.abort()
        return {"sentence": "it is being broken off; the substitute serves on"}

    def check_idle(self) -> None:
        """Raises StateError while a switchback stands: the substitute is its own."""
        own = returned.load(self.folder)
        if own is not None:
            raise StateError(f"a switchback of {self.replica.name} is at work", cause=own.sentence(), hint="rha status")

    def why_not_receive(self) -> StateError | None:
        """The reason why the master's engine may not connect yet: the replica takes in what the substitute wrote."""
        own = returned.load(self.folder)
        if own is None or not is_past_return(own.begun):
            return None
        self._home.greeted = True
        return StateError(
            f"{self.replica.name} is being handed back",
            cause=own.sentence(),
            hint="nothing has to be done: the engine tries again, and tracks what is written meanwhile",
        )

    # After a crash ---------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Goes on with what a crash or a failure has left, in a thread of its own, until it is done."""
        if returned.load(self.folder) is None or (self._going_on and self._going_on.is_alive()):
            return
        self._going_on = threading.Thread(target=self._recover, name=f"return-{self.replica.name}", daemon=True)
        self._going_on.start()

    def _recover(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._is_waiting() or go_on(self._home, self._vm, self._say):
                    self._trouble = ""
                if returned.load(self.folder) is None:
                    return
            except RhaError as error:
                self._trouble = str(error).replace("\n", "; ")
                self._say(self._trouble)
            self._stopping.wait(RETRY_SECONDS)

    def _is_waiting(self) -> bool:
        """Only a receiver can say whether it knows that the master may boot."""
        own = returned.load(self.folder)
        handed = own is not None and is_past_return(own.begun) and BackStep.HAND_OVER not in own.ended
        return handed and self._home.receiver() is None and not self._home.greeted

    def stop(self) -> None:
        """Ends the receiver's connection and what goes on by itself; a switchback under way is taken up again at the
        next start."""
        self._stopping.set()
        receiver = self._home.receiver()
        if receiver:
            receiver.stop()

    # Report ----------------------------------------------------------------------------------------------------

    def fill(self, report: Report) -> Report:
        """Adds the receiver and the switchback."""
        own, receiver, back = returned.load(self.folder), self._home.receiver(), self._back
        if own is None and receiver is None:
            return report
        if own is None:
            assert receiver is not None
            report.back = ReturnReport(state="offered", receiver=receiver.peer)
            return report
        found = returned.report_of(own)
        found.receiver = receiver.peer if receiver else ""
        if back and found.step in MEASURED:
            done, total, rate = back.copy.figures()
            found.done_bytes, found.total_bytes, found.rate_bytes = done, total, rate
            found.remaining_seconds = (total - done) / rate if rate else None
        found.seconds = time.time() - own.trigger.decided
        report.back, report.state, report.why = found, found.state, own.why
        if report.vm and own.stopped and found.state != ROLLING_BACK:
            report.vm = msgspec.structs.replace(report.vm, state="off")
        report.health = "warning"
        if self._trouble:
            report.alarms, report.health = [*report.alarms, self._trouble], "alarm"
        return report
