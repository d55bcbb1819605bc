"""One scenario's switchback on the appliance: the receiver that is connected, the act, and what is left of one after a
crash."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import rha
from rha.appliance.adopting import adopt
from rha.appliance.offered import Offered
from rha.appliance.replica import Replica
from rha.appliance.warden import ENDED
from rha.errors import NetworkError, RhaError, StateError
from rha.fence import taking
from rha.fence.taking import Means
from rha.image import formats
from rha.image.storage_daemon import ImageSpec
from rha.report import Report, ReturnReport
from rha.scenario import Scenario
from rha.schedule import limit_at
from rha.switch import progress as ledger
from rha.switch import returned
from rha.switch.progress import SERVING, Image, trigger
from rha.switch.return_run import go_on, look, run_switchback, take_back_by_hand
from rha.switch.returning import FOLDER, Back
from rha.switch.switchback import BackStep, is_past_return, plan
from rha.vm.base import DomainState, VmHost
from rha.wire.messages import PROTOCOL, Offer, Taken

RETRY_SECONDS = 5.0
LATE_SECONDS = 600.0
MEASURED = (BackStep.COPY, BackStep.CATCH_UP, BackStep.LAST_PASS, BackStep.VERIFY)


class Returner:
    """`means`: by which the appliance reaches the lease. Everything may be called from any thread."""

    def __init__(self, replica: Replica, vm: VmHost, means: Means) -> None:
        self.replica, self.folder = replica, replica.folder
        self._vm, self._means = vm, means
        self._lock = threading.Lock()
        self._receiver: Offered | None = None
        self._back: Back | None = None
        self._stopping = threading.Event()
        self._going_on: threading.Thread | None = None
        self._trouble = ""
        self._greeted = False

    # rha.switch.returning.ReturnHost ---------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario:
        scenario = self.replica.scenario
        if scenario is None:
            raise StateError(f"{self.replica.name} was never connected", cause="its scenario is not known here")
        return scenario

    def receiver(self) -> Offered | None:
        with self._lock:
            return self._receiver if self._receiver and self._receiver.is_alive else None

    def has_greeted(self) -> bool:
        return self._greeted

    def rates(self) -> tuple[int, int]:
        scenario = self.scenario
        return int(scenario.sync.read_limit), limit_at(scenario.link, datetime.now()).rate

    def adapt_guest(self, overlays: Sequence[Path]) -> None:
        """The guest runs as the master left it: nothing was changed inside it."""

    def restore_guest(self, overlays: Sequence[Path]) -> None:
        """The guest runs as the master left it: nothing has to be written back."""

    def release(self) -> None:
        if self.scenario.lease:
            self._say(taking.release(self.scenario, self._means))

    def keep(self, images: Sequence[Image], moment: float, by: str) -> int:
        """A substitute at an earlier point has two overlays a disk: what differs there, and what the guest wrote."""
        written = [ImageSpec(image.name, Path(image.overlay), "qcow2") for image in images]
        below = [ImageSpec(image.name, Path(image.path), image.format) for image in images]
        is_point = [spec.path for spec in below] != self.replica.image_paths()
        layers = [below, written] if is_point else [written]
        return adopt(self.replica, layers, self.folder / FOLDER, moment, by)

    def reopen(self) -> None:
        (self.folder / ENDED).touch()
        self.replica.restore_images()

    # The receiver's connection ---------------------------------------------------------------------------------

    def serve(self, sock: ssl.SSLSocket, peer: str, offer: Offer) -> None:
        """One receiver, until it ends. A new one takes the place of an old one that nobody works with.

        Raises RhaError, after the receiver was told.
        """
        offered = Offered(sock, peer, offer)
        if refusal := self._why_not_take(offer):
            error, final = refusal
            offered.refuse(error, final=final)
            raise error
        with self._lock:
            before, self._receiver = self._receiver, offered
        if before:
            before.stop()
        try:
            names = list(self._sizes())
            taken = Taken(
                protocol=PROTOCOL,
                version=rha.__version__,
                host=socket.gethostname(),
                disks=names,
                bytes=[self._sizes()[name] for name in names],
            )
            offered.take(taken)
            self._say(f"{peer} ({offer.host}) offers its disks")
            offered.serve()
        finally:
            with self._lock:
                if self._receiver is offered:
                    self._receiver = None

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
        busy, other = self._back, self.receiver()
        if busy and other and busy.copy.receiver_id == other.id != offer.receiver:
            return StateError(f"another receiver of {name} is at work", cause=other.peer, hint="end it first"), False
        return None

    def _sizes(self) -> dict[str, int]:
        past = ledger.load(self.folder)
        images = past.images if past else []
        return {image.name: formats.info(Path(image.overlay)).virtual_size for image in images}

    # The act ---------------------------------------------------------------------------------------------------

    def switchback(
        self, person: str, reason: str, *, dry_run: bool = False, force: bool = False, verify_all: bool = False
    ) -> dict[str, object]:
        """The answer to `rha switchback`: `sentence` and `steps`. Blocks until it is done, or taken back.

        Raises as `run_switchback`.
        """
        if dry_run:
            steps = plan(look(self, self._vm, force=force, verify_all=verify_all))
            return {"sentence": "nothing was changed", "steps": [step.sentence for step in steps]}
        self._greeted = False
        try:
            progress = run_switchback(
                self,
                self._vm,
                trigger(person, reason or "asked for by a person"),
                force=force,
                verify_all=verify_all,
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
                self._vm.start(past.domain)

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
            return {"sentence": take_back_by_hand(self, self._vm, person, self._say).sentence()}
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
        self._greeted = True
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
                if self._is_waiting() or go_on(self, self._vm, self._say):
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
        return handed and self.receiver() is None and not self._greeted

    def stop(self) -> None:
        """Ends the receiver's connection and what goes on by itself; a switchback under way is taken up again at the
        next start."""
        self._stopping.set()
        receiver = self.receiver()
        if receiver:
            receiver.stop()

    def _say(self, sentence: str) -> None:
        print(f"rha appliance: {self.replica.name}: {sentence}", file=sys.stderr, flush=True)

    # Report ----------------------------------------------------------------------------------------------------

    def fill(self, report: Report) -> Report:
        """Adds the receiver and the switchback."""
        own, receiver, back = returned.load(self.folder), self.receiver(), self._back
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
        report.health = "warning"
        if self._trouble:
            report.alarms, report.health = [*report.alarms, self._trouble], "alarm"
        return report
