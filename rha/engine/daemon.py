"""The engine: adopts or loads the probe, keeps a session with the appliance, syncs what must be synced, and says how
it is.

Effects only; what to do is decided in state.py.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from types import FrameType as StackFrame
from typing import Any

import msgspec

from rha import scenario_check
from rha.capture import pins, probe, shared
from rha.capture.capture import Capture, Gap
from rha.capture.device import Device, lookup, why_not
from rha.control import local
from rha.engine.resync import Round
from rha.engine.session import Refused, Session
from rha.engine.state import DiskView, Resync, next_action, state_of
from rha.engine.verify import Verification
from rha.errors import DeviceError, Exit, HostError, RhaError, StateError
from rha.report import DiskReport, Report
from rha.scenario import Scenario
from rha.wire import tls
from rha.wire.messages import DiskNeed, Welcome

BACK_OFF_SECONDS = (0.2, 30.0)  # first and longest wait between two attempts to connect
FINAL_BACK_OFF_SECONDS = 60.0  # after a refusal that only a person can lift
CONNECT_SECONDS = 10.0
RING_LIMITS = (4 << 20, 2 << 30)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def ring_bytes(scenario: Scenario) -> int:
    """Size of the ring: the scenario's, else 1/16 of RAM; a power of two from 4 MiB to 2 GiB."""
    wanted = int(scenario.capture.ring or _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES") // 16)
    smallest, largest = RING_LIMITS
    return 1 << max(smallest, min(wanted, largest)).bit_length() - 1


def attach(scenario: Scenario) -> tuple[Capture, str]:
    """The running capture of the scenario, adopted or newly loaded, and the sentence that says which.

    Raises DeviceError, HostError.
    """
    for disk in scenario.disk:
        if error := why_not(disk.device):
            raise error
    devices = [lookup(disk.device) for disk in scenario.disk]
    _refuse_shared(scenario.name, devices)
    reason = "the probe was not loaded"
    if pins.exist(scenario.name):
        capture = Capture(scenario.name, devices)
        misfit = capture.why_not_adopt()
        if misfit is None:
            return capture, "adopted the probe that was running: nothing was missed meanwhile"
        capture.close()
        pins.remove(scenario.name)
        reason = misfit
    probe.load(
        probe.Specification(scenario=scenario.name, devices=[d.path for d in devices], ring_bytes=ring_bytes(scenario))
    )
    return Capture(scenario.name, devices), f"loaded the probe ({reason}); every disk needs a sync"


def _refuse_shared(name: str, devices: list[Device]) -> None:
    """Two disks of one scenario must not be the same device, or a disk and its own partition: one write would be two
    records."""
    for i, one in enumerate(devices):
        for other in devices[:i]:
            if (
                one.dev == other.dev
                and one.start < other.start + other.sectors
                and other.start < one.start + one.sectors
            ):
                raise DeviceError(
                    f"{one.path} and {other.path} of scenario {name} overlap",
                    cause="one holds the other, or they are the same device",
                    hint="keep one of them",
                )


class Engine:
    """All of one scenario on the master. Threads: this one (sessions), one round at a time, control."""

    def __init__(self, scenario: Scenario, capture: Capture, attached: str) -> None:
        self.scenario, self.capture = scenario, capture
        count = len(scenario.disk)
        self._lock = threading.RLock()
        self._attached = attached
        self._link_why = "not connected yet"
        self._need: list[str | None] = [None] * count
        self._ordered = [False] * count
        self._loss = [""] * count
        self._seen_losses: list[dict[str, int]] = [capture.losses(i) for i in range(count)]
        self._since = [time.time()] * count
        self._last_state = [""] * count
        self._alarms: dict[str, str] = {}
        self._round: Round | None = None
        self._verification: Verification | None = None
        self._epoch = 0
        self._hold_rounds_until = 0.0
        self._session: Session | None = None
        self._greeted = False  # the last attempt to connect came as far as a welcome
        self._stop = threading.Event()

    # Sessions -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Keeps a session until `stop`; every failure is named and followed by another attempt, later and later."""
        context = self._context()
        wait = BACK_OFF_SECONDS[0]
        while not self._stop.is_set():
            self._greeted = False
            try:
                self._one_session(context)
            except Refused as error:
                self._link_lost(error)
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
        with tls.connect(self.scenario.appliance.address, context, CONNECT_SECONDS) as sock:
            session = Session(
                sock,
                self.scenario,
                self.capture,
                report=self.report,
                on_gap=self._on_gap,
                on_differs=self._on_differs,
                on_tick=self._on_tick,
            )
            welcome = session.greet()
            if not welcome.generation_known and self._first_lsn() <= welcome.lsn_floor:
                self.capture.renew(welcome.lsn_floor)
                welcome = session.greet()
            self._take_welcome(welcome)
            self._greeted = True
            with self._lock:
                self._session, self._link_why = session, f"connected to {welcome.host}"
            try:
                session.run(welcome.durable_lsn if welcome.generation_known else self._first_lsn())
            finally:
                self._end_session()

    def _first_lsn(self) -> int:
        """The oldest LSN that the ring still holds; 0 while this generation has none."""
        return self.capture.lsn_base + self.capture.ring.consumer if self.capture.lsn_base else 0

    def _take_welcome(self, welcome: Welcome) -> None:
        needs = {need.name: need for need in welcome.disks}
        with self._lock:
            for i, disk in enumerate(self.scenario.disk):
                need = needs.get(disk.name, DiskNeed(name=disk.name, need="compare"))
                self._need[i] = need.need
                if need.need in ("full", "compare"):
                    self.capture.set_trusted(i, False)  # the bits stand for less than this image lacks
                self._ordered[i] = (
                    need.need == "nothing"
                    and self.capture.is_trusted(i)
                    and self.capture.mode(i) == shared.MODE_DATA
                    and not any(gap.disk == i for gap in self.capture.gaps())
                )

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
            self._need = [None] * len(self._need)
            self._link_why = str(error).replace("\n", "; ")

    def stop(self) -> None:
        """Ends `run` soon. The probe stays and goes on capturing."""
        self._stop.set()
        with self._lock:
            if self._session:
                self._session.stop()

    # Decisions' effects ---------------------------------------------------------------------------------------

    def _on_gap(self, gap: Gap) -> str:
        """A disk left write order. Returns the reason's name. Called from the session's thread."""
        with self._lock:
            losses = self.capture.losses(gap.disk)
            before = self._seen_losses[gap.disk]
            news = [name for name in losses if losses[name] > before.get(name, 0)] or ["ring-full"]
            self._seen_losses[gap.disk] = losses
            lsn = self.capture.lsn_base + gap.position
            self._loss[gap.disk] = f"{dict(shared.LOSSES)[news[0]]} at LSN {lsn}"
            self._ordered[gap.disk] = False
            if self._need[gap.disk] == "nothing":
                self._need[gap.disk] = "marked"
            if self._round and gap.disk in self._round.plan.disks:
                self._round.abort(f"{self.scenario.disk[gap.disk].name} left write order again: {self._loss[gap.disk]}")
            return news[0]

    def _on_differs(self, disk: int, offset: int, flags: bytes) -> None:
        with self._lock:
            for one in (self._round, self._verification):
                if one:
                    one.comparer.answer(disk, offset, flags)

    def _on_tick(self) -> None:
        """About ten times a second, in the session's thread: look, decide, act."""
        with self._lock:
            self._look_for_misses()
            if self._round is not None or time.monotonic() < self._hold_rounds_until:
                return
            ring = self.capture.ring
            action = next_action(self.views(), 1 - (ring.producer - ring.consumer) / ring.bytes)
            if isinstance(action, Resync) and self._session and not self._verification:
                self._begin_round(action, self._session)

    def _look_for_misses(self) -> None:
        """A call of the probe that the kernel skipped may be a write that nothing marked: no disk can be trusted."""
        misses = self.capture.new_misses()
        if not misses:
            return
        self.capture.answer_misses()
        for disk in range(len(self.scenario.disk)):
            self._loss[disk] = f"the kernel skipped {misses} calls of the probe"
            self._ordered[disk] = False
            self.capture.set_trusted(disk, False)
        if self._round:
            self._round.abort("the kernel skipped calls of the probe")

    def _begin_round(self, plan: Resync, session: Session) -> None:
        self._epoch += 1
        self._round = Round(
            plan,
            self._epoch,
            self.capture,
            session.outbox,
            forget_gap=session.forget_gap,
            done=self._round_done,
            failed=self._round_failed,
        )
        self._round.start()

    def _round_done(self, disks: tuple[int, ...]) -> None:
        with self._lock:
            self._round = None
            self._alarms.pop("resync", None)
            gone = {gap.disk for gap in self.capture.gaps()}
            for disk in disks:
                self._need[disk] = "nothing"
                self._ordered[disk] = disk not in gone
                self._loss[disk] = "" if disk not in gone else self._loss[disk]

    def _round_failed(self, error: RhaError) -> None:
        with self._lock:
            for disk in self._round.plan.disks if self._round else ():
                if self.capture.is_trusted(disk) and self._need[disk] is not None:
                    self._need[disk] = "marked"  # what the round did not reach is pending
            self._round = None
            self._hold_rounds_until = time.monotonic() + 1.0
            if isinstance(error, DeviceError):
                self._alarms["resync"] = str(error).replace("\n", "; ")
                self._hold_rounds_until = time.monotonic() + 10.0

    # Report ---------------------------------------------------------------------------------------------------

    def views(self) -> list[DiskView]:
        """The disks as they are now, for the decisions."""
        with self._lock:
            syncing = self._round.progress if self._round else {}
            return [
                DiskView(
                    name=disk.name,
                    is_trusted=self.capture.is_trusted(i),
                    in_data_mode=self.capture.mode(i) == shared.MODE_DATA,
                    is_ordered=self._ordered[i],
                    is_syncing=i in syncing,
                    need=self._need[i],  # type: ignore[arg-type]
                    dirty_bytes=0 if self._ordered[i] else self.capture.dirty_bytes(i),
                    loss=self._loss[i],
                    method=syncing[i].method if i in syncing else "marked",
                )
                for i, disk in enumerate(self.scenario.disk)
            ]

    def _disk_report(self, i: int, view: DiskView) -> DiskReport:
        state, why = state_of(view)
        if state != self._last_state[i]:
            self._last_state[i], self._since[i] = state, time.time()
        progress = self._round.progress.get(i) if self._round else None
        device = self.capture.devices[i]
        return DiskReport(
            name=view.name,
            device=device.path,
            bytes=device.bytes,
            state=state,
            why=why,
            since=self._since[i],
            dirty_bytes=view.dirty_bytes,
            losses=self.capture.losses(i),
            sync=progress.as_report() if progress else None,
        )

    def report(self) -> Report:
        """How the scenario is, as the master sees it."""
        with self._lock:
            capture, session = self.capture, self._session
            disks = [self._disk_report(i, view) for i, view in enumerate(self.views())]
            captured = capture.lsn_base + capture.ring.producer
            durable = session.progress.durable_lsn if session else capture.lsn_base + capture.ring.consumer
            worst = next((disk for disk in disks if disk.state != "write-order"), None)
            totals = [capture.captured(i) for i in range(len(disks))]
            return Report(
                role="engine",
                scenario=self.scenario.name,
                mode=self.scenario.mode,
                time=time.time(),
                health="alarm" if self._alarms else "ok" if session and not worst else "warning",
                state=worst.state if worst else "write-order",
                why=f"{self._link_why}; {worst.name}: {worst.why}" if worst else f"{self._link_why}; in write order",
                disks=disks,
                lag_bytes=max(0, captured - durable),
                lag_seconds=self._lag_seconds(captured, durable),
                records=sum(records for records, _ in totals),
                payload_bytes=sum(payload for _, payload in totals),
                ring_bytes=capture.ring.bytes,
                ring_used_bytes=capture.ring.producer - capture.ring.consumer,
                peer=self.scenario.appliance.address,
                connected=session is not None,
                link=session.link_report() if session else None,
                alarms=list(self._alarms.values()),
            )

    def _lag_seconds(self, captured: int, durable: int) -> float:
        """Age of the oldest record that is not acknowledged, by the probe's own clock; 0 when there is none."""
        if captured <= durable:
            return 0.0
        oldest = self.capture.ring.oldest_time_ns
        return max(0.0, (time.monotonic_ns() - oldest) / 1e9) if oldest else 0.0

    def verify(self) -> dict[str, Any]:
        """Compares every disk with its image. Raises StateError when a resync runs or no appliance is connected."""
        with self._lock:
            if self._session is None:
                raise StateError("no appliance is connected", cause=self._link_why, hint="rha status")
            if self._round or not all(self._ordered):
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


def run(scenario_path: Path) -> int:
    """The daemon: runs until SIGTERM or SIGINT.

    Raises RhaError when it cannot start.
    """
    scenario = scenario_check.load(scenario_path)
    if os.geteuid() != 0:
        raise HostError("the engine must run as root", cause=f"user {os.geteuid()}", hint="sudo rha engine …")
    socket_path = local.RUN_DIR / f"engine-{scenario.name}.sock"
    if local.answers(socket_path):
        raise StateError(
            f"an engine for {scenario.name} is running", cause=f"it answers on {socket_path}", hint="rha status"
        )
    tls.client_context(*map(Path, (scenario.appliance.ca, scenario.appliance.certificate, scenario.appliance.key)))
    capture, sentence = attach(scenario)
    print(f"rha engine {scenario.name}: {sentence}", flush=True)
    engine = Engine(scenario, capture, sentence)

    def on_signal(number: int, frame: StackFrame | None) -> None:
        engine.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    handlers = {"status": lambda: [msgspec.to_builtins(engine.report())], "verify": engine.verify}
    with local.serve(socket_path, handlers):
        engine.run()
    capture.close()
    return int(Exit.OK)


def unload(scenario: Scenario) -> bool:
    """Takes the probe of a scenario out of the kernel. True when there was one.

    Raises StateError while its engine runs.
    """
    if local.answers(local.RUN_DIR / f"engine-{scenario.name}.sock"):
        raise StateError(
            f"the engine of {scenario.name} is running", cause="it would lose its probe", hint="stop it first"
        )
    return pins.remove(scenario.name)
