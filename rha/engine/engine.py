"""One engine: keeps a session with the appliance, follows the devices, syncs what must be synced.

Effects only; what to do is decided in state.py, what is known of the disks stands in disks.py.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.capture.flush import flush
from rha.engine import orders, reporting, spooler
from rha.engine.alone import alone
from rha.engine.attach import Attached
from rha.engine.disks import Disks, Loss
from rha.engine.history import History
from rha.engine.life import Life, life_of, look
from rha.engine.quiesce import Quiescer
from rha.engine.release import Release
from rha.engine.resync import Round
from rha.engine.session import Refused, Session
from rha.engine.stall import Stall
from rha.engine.state import SPOOL_MOVED, Cause, DiskView, Resync, next_action
from rha.engine.verify import Verification
from rha.errors import DeviceError, RhaError, StateError
from rha.report import Report
from rha.scenario import Scenario
from rha.wire import tls
from rha.wire.messages import Alone

BACK_OFF_SECONDS = (0.2, 30.0)  # first and longest wait between two attempts to connect
FINAL_BACK_OFF_SECONDS = 60.0  # after a refusal that only a person can lift
CONNECT_SECONDS = 10.0
WATCH_SECONDS = 1.0  # between two looks at the devices


class Engine:
    """All of one scenario on the master. Threads: this one (sessions), one round at a time, control."""

    def __init__(self, scenario: Scenario, attached: Attached, history: History) -> None:
        self.scenario, self.capture = scenario, attached.capture
        self.disks = Disks([disk.name for disk in scenario.disk], self.capture, history, attached.cause)
        self.add: Callable[[Report], Report] = lambda report: report  # what the daemon does beside, for the report
        self.release: Release | None = None  # the daemon's
        self.must_attach_again = ""  # why, once `run` has ended for that
        self._lock = self.disks.lock
        self._history = history
        self._link_why = "not connected yet"
        self._alarms: dict[str, str] = {}
        self._round: Round | None = None
        self._verification: Verification | None = None
        self._epoch = 0
        self._hold_rounds_until = 0.0
        self._session: Session | None = None
        self._stall = Stall()
        self._greeted = False  # the last attempt to connect came as far as a welcome
        self._stop = threading.Event()
        self.backlog, self._spooler = spooler.prepare(scenario, self.capture, self._spool_moved)
        self.quiescer = Quiescer(scenario, self.capture.devices, self.position, self._is_ordered)

    # Sessions -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Keeps a session until `stop`; every failure is named and followed by another attempt, later and later."""
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        watch.start()
        self._spooler.start()
        try:
            self._keep_session()
        finally:
            watch.join()
            self._spooler.stop()

    def _keep_session(self) -> None:
        context = self._context()
        wait = BACK_OFF_SECONDS[0]
        while not self._stop.is_set():
            self._greeted = False
            try:
                self._one_session(context)
            except Refused as error:
                self._link_lost(error)
                self._note_split(error.split)
                wait = FINAL_BACK_OFF_SECONDS if error.final else wait
            except (RhaError, OSError) as error:
                self._link_lost(error)
            if self._greeted:
                wait = BACK_OFF_SECONDS[0]
            self._stop.wait(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, BACK_OFF_SECONDS[1])

    def _context(self) -> Any:
        ends = self.scenario.appliance
        return tls.client_context(Path(ends.ca), Path(ends.certificate), Path(ends.key))

    def _one_session(self, context: Any) -> None:
        if self.backlog.failure:
            self._give_up_backlog(self.backlog.failure)
        with tls.connect(self.scenario.appliance.address, context, CONNECT_SECONDS) as sock:
            session = Session(
                sock,
                self.scenario,
                self.capture,
                self.backlog,
                report=self.report,
                look=self.disks.look,
                on_loss=self._on_loss,
                on_differs=self._on_differs,
                on_tick=self._on_tick,
                orders=orders.handlers(self),
                alone=self._alone,
            )
            welcome = session.greet()
            if not welcome.generation_known and self.backlog.first_lsn <= welcome.lsn_floor:
                self.backlog.renew(welcome.lsn_floor)
                welcome = session.greet()
            self.disks.take_needs(welcome.disks)
            self._greeted = True
            with self._lock:
                self._alarms.pop("split", None)
                self._session, self._link_why = session, f"connected to {welcome.host}"
            try:
                session.run(welcome.durable_lsn if welcome.generation_known else self.backlog.first_lsn)
            finally:
                self._end_session()

    def _spool_moved(self, disk: int, evidence: str) -> None:
        """Blocks that were the spool's, and not captured, may be another file's: they are pending."""
        self.disks.leave_order(disk, Cause(SPOOL_MOVED, evidence, time.time()))

    def _give_up_backlog(self, why: RhaError) -> None:
        """What was spooled cannot be shipped: another generation begins, and every disk is compared."""
        self.backlog.renew(self.capture.lsn_base + self.capture.ring.producer)
        for disk in range(len(self.scenario.disk)):
            self.disks.leave_order(disk, Cause("spool-lost", why.cause, time.time()))

    def _end_session(self) -> None:
        with self._lock:
            self._session = None
            runner = self._round
            if runner:
                runner.abort("the link to the appliance is gone")
            if self._verification:
                self._verification.abort("the link to the appliance is gone")
        if runner:
            runner.join()

    def _link_lost(self, error: BaseException) -> None:
        with self._lock:
            self.disks.forget_needs()
            self._link_why = str(error).replace("\n", "; ")

    def _note_split(self, sentence: str) -> None:
        """What the appliance says of a substitute in this master's place stands until it takes the stream again."""
        with self._lock:
            if sentence:
                self._alarms["split"] = sentence
            else:
                self._alarms.pop("split", None)

    def _alone(self) -> Alone:
        """What the appliance has never acknowledged."""
        with self._lock:
            self.disks.look()
            views = self.views()
        return alone(self.capture, self.backlog, views)  # without the lock: a large ring takes a second or two

    def stop(self) -> None:
        """Ends `run` soon. The probe stays and goes on capturing."""
        self._stop.set()
        with self._lock:
            if self._session:
                self._session.stop()

    # Decisions' effects ---------------------------------------------------------------------------------------

    def _on_loss(self, loss: Loss) -> None:
        """The session announces a loss: a round that counts on the disk's order is worth nothing."""
        with self._lock:
            if self._round and loss.disk in self._round.plan.disks:
                name = self.scenario.disk[loss.disk].name
                self._round.abort(f"{name} left write order again: {loss.reason}")

    def _on_differs(self, disk: int, offset: int, flags: bytes) -> None:
        with self._lock:
            for one in (self._round, self._verification):
                if one:
                    one.comparer.answer(disk, offset, flags)

    def _on_tick(self) -> None:
        """About ten times a second, in the session's thread: look, decide, act."""
        with self._lock:
            if self._session:
                # Under the lock: a round forgets the losses of its disks, so no other thread may note one between this
                # and its beginning.
                self._session.announce_losses()
            if self._round is not None or time.monotonic() < self._hold_rounds_until:
                return
            action = next_action(self.views(), 1 - self.backlog.used, self.scenario.sync.method)
            may_begin = self._session and self._session.are_gaps_known() and not self._verification
            if isinstance(action, Resync) and may_begin and self._session:
                self._begin_round(action, self._session)

    def _begin_round(self, plan: Resync, session: Session) -> None:
        self._epoch += 1
        self._round = Round(
            plan,
            self._epoch,
            self.capture,
            session.outbox,
            self.scenario.sync,
            forget=lambda disk: self._enters_data_mode(session, disk),
            done=self._round_done,
            failed=self._round_failed,
        )
        self._round.start()

    def _enters_data_mode(self, session: Session, disk: int) -> None:
        with self._lock:
            self.disks.enters_data_mode(disk)
            session.forget_loss(disk)

    def _round_done(self, disks: tuple[int, ...]) -> None:
        with self._lock:
            assert self._round is not None
            done, self._round = self._round, None
            self._alarms.pop("resync", None)
            self.disks.round_done({disk: done.progress[disk] for disk in disks})

    def _round_failed(self, error: RhaError) -> None:
        with self._lock:
            self.disks.round_failed(self._round.plan.disks if self._round else ())
            self._round = None
            self._hold_rounds_until = time.monotonic() + 1.0
            if isinstance(error, DeviceError):
                self._alarms["resync"] = str(error).replace("\n", "; ")
                self._hold_rounds_until = time.monotonic() + 10.0

    # The devices' life ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Whether the devices are what they were, and what the probe lost while no session asks."""
        while not self._stop.wait(WATCH_SECONDS):
            self.disks.look()
            if self.release:
                self.release.tend(connected=self._session is not None)
            seen = [look(disk.device) for disk in self.scenario.disk]
            lives = [life_of(device, self.capture.sectors(i), seen[i]) for i, device in enumerate(self.capture.devices)]
            with self._lock:
                for i, life in enumerate(lives):
                    self._take_life(i, life)
                    self.disks.verdict(i, self._view(i))  # a change goes into the history while nobody asks, too
            if any(life.kind == "replaced" for life in lives) and all(one.device for one in seen):
                self._attach_again(next(life.evidence for life in lives if life.kind == "replaced"))
            for i, life in enumerate(lives):
                if life.kind == "grown":
                    self._grow(i, life)

    def _take_life(self, disk: int, life: Life) -> None:
        name, now = self.scenario.disk[disk].name, time.time()
        reason = {"shrunk": "shrunk", "removed": "removed", "replaced": "device-changed"}.get(life.kind)
        self.disks.set_trouble(disk, Cause(reason, life.evidence, now) if reason else None)
        if reason or life.kind == "read-only":
            self._alarms[f"device-{disk}"] = f"{name}: {life.evidence}"
        else:
            self._alarms.pop(f"device-{disk}", None)

    def _grow(self, disk: int, life: Life) -> None:
        """Follows a device that has grown; the appliance learns its size when it is greeted anew."""
        device = look(self.scenario.disk[disk].device).device
        if device is None or not self.capture.has_room_for(disk, device):
            self._attach_again(life.evidence)
            return
        self.capture.grow(disk, device)
        with self._lock:
            self.disks.leave_order(disk, Cause("grown", life.evidence, time.time()))
            if self._session:
                self._session.stop()

    def _attach_again(self, why: str) -> None:
        """The probe no longer fits the devices: `run` ends, and whoever called it attaches anew."""
        self.must_attach_again = why
        self.stop()

    # Report ---------------------------------------------------------------------------------------------------

    def _view(self, disk: int) -> DiskView:
        syncing = self._round.progress.get(disk) if self._round else None
        return self.disks.view(disk, syncing.method if syncing else None)

    def views(self) -> list[DiskView]:
        """The disks as they are now, for the decisions."""
        with self._lock:
            return [self._view(i) for i in range(len(self.scenario.disk))]

    def report(self) -> Report:
        """How the scenario is, as the master sees it."""
        with self._lock:
            self.disks.look()  # a report never says less than the probe knows
            found = [self._history.failure, self._spooler.alarm(), self._stalled()]
            report = reporting.report(
                self.scenario,
                self.capture,
                self.backlog,
                reporting.disk_reports(self.disks, self.capture, self.views(), self._round),
                progress=self._session.progress if self._session else None,
                link=self._session.link_report() if self._session else None,
                link_why=self._link_why,
                spool=self._spooler.report(),
                alarms=[*self._alarms.values(), *filter(None, found)],
            )
        return self.add(report)

    def _stalled(self) -> str:
        durable = self._session.progress.durable_lsn if self._session and not self._round else None
        return self._stall.look(durable, self.capture.lsn_base + self.capture.ring.producer, time.monotonic())

    def position(self) -> tuple[float, int]:
        """The master's clock, and the LSN below which every write is that was submitted before it."""
        now = time.time()
        return now, self.capture.lsn_base + self.backlog.producer

    def must_be_ordered(self) -> None:
        """Raises StateError when the disks are not in write order, or being compared."""
        with self._lock:
            if self._round or self._verification or not self.disks.all_ordered():
                cause = "a sync or verification is due or running"
                raise StateError("the disks are not in write order", cause=cause, hint="rha status")

    def settle(self) -> list[str]:
        """Writes out what memory holds of the disks, and waits until all that was submitted has ended. What was done,
        in sentences.

        Raises StateError when the disks are not in write order, DeviceError.
        """
        with self._lock:
            self.must_be_ordered()
            self._hold_rounds_until = math.inf  # a round drains as well, and only one may
        try:
            said = flush(self.capture.devices)
            ways = [f"{disk.name}: {self.capture.drain(i)}" for i, disk in enumerate(self.scenario.disk)]
            return [*said, f"drained ({'; '.join(ways)})"]
        finally:
            with self._lock:
                self._hold_rounds_until = 0.0

    def _is_ordered(self) -> bool:
        with self._lock:
            return self._round is None and self.disks.all_ordered()

    def verify(self) -> dict[str, Any]:
        """Compares every disk with its image. Raises StateError when a resync runs or no appliance is connected."""
        with self._lock:
            if self._session is None:
                raise StateError("no appliance is connected", cause=self._link_why, hint="rha status")
            if not self._is_ordered():
                raise StateError(
                    "the disks are not in write order yet", cause="a sync is due or running", hint="rha status"
                )
            if self._verification:
                raise StateError("a verification is running already", cause="one at a time", hint="rha status --watch")
            verification = self._verification = Verification(self.capture, self._session)
        try:
            return verification.run([disk.name for disk in self.scenario.disk])
        finally:
            with self._lock:
                self._verification = None
