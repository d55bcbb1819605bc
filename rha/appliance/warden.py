"""Watches one scenario's master and fails over: the appliance's hands for what rha.watch and rha.switch decide."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.appliance import maintenance
from rha.appliance.discarding import Discarding
from rha.appliance.parted import Parted
from rha.appliance.replica import Replica
from rha.appliance.replica_host import ReplicaHost
from rha.errors import RhaError, StateError
from rha.fence import taking
from rha.fence.taking import Means
from rha.report import Point, Report
from rha.scenario import Scenario
from rha.switch import planned, switches
from rha.switch import progress as ledger
from rha.switch.failover import is_revocable, run_failover
from rha.switch.planned import run_switchover
from rha.switch.progress import FAILED, ROLLING_BACK, Progress, Trigger, trigger
from rha.vm.base import VmHost
from rha.watch.verdict import Action, Observation, Verdict, judge
from rha.watch.watcher import AskObserver, Watcher, asked_here
from rha.wire.messages import Hello

LOOK_SECONDS = 0.5
ENDED = "failover.ended"  # its time: when the last failover was ended
RESUME_SECONDS = 600.0  # that a master may take to start what it has stopped
RETRIES, RETRY_SECONDS = 5, 10.0  # of a failover that the appliance itself began: libvirt may be starting, too


class Warden(threading.Thread):
    """One scenario's watch. `hang_up(scenario)` ends its connection, if there is one; `order(verb, limit, **arguments)`
    has its master do something (rha.engine.orders)."""

    def __init__(
        self,
        replica: Replica,
        store: Path,
        vm: VmHost,
        hang_up: Callable[[str], None],
        means: Means,
        ask_observer: AskObserver,
        order: Callable[..., Any],
    ) -> None:
        super().__init__(name=f"watch-{replica.name}", daemon=True)
        self.replica = replica
        self._store, self.vm, self._hang_up, self._means, self._order = store, vm, hang_up, means, order
        self._begun = time.monotonic()
        self._stopping = threading.Event()
        self._watcher = Watcher(ask_observer, means.place.scripts)
        self._verdict: Verdict | None = None
        self._said = ""
        self._bug = ""
        self._refused = ""  # why the last failover that was due has not begun
        self._failures = 0
        self._retry_at = self._order_at = 0.0
        self._acting = threading.Lock()
        self.parted = Parted(replica, vm)
        self._discarding = Discarding(replica, vm, self.parted, release=self._release, say=self.say)

    # Watching -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
                self._bug = ""
            except RhaError as error:
                self.say(str(error).replace("\n", "; "))
            except Exception as error:  # noqa: BLE001 - a bug must neither end the watch nor be hidden by its going on
                self._bug = f"bug in the watch: {error!r}"
                self.say("".join(traceback.format_exception(error)))

    def stop(self) -> None:
        """Ends the watch; a substitute that runs goes on running."""
        self._stopping.set()
        self._watcher.stop()
        if self.ident is not None:
            self.join()

    def _look(self) -> None:
        self._end_pause()
        if self._go_on_with_switch():
            return
        self.replica.tend()
        scenario = self.replica.scenario
        if scenario is None:
            return
        self._give_back()
        verdict = self._verdict = judge(self._observe(scenario))
        if verdict.ask:
            self._watcher.ask(scenario, time.monotonic() - self._silence())
        if verdict.action is not Action.NONE:
            self.say(verdict.why)
        if verdict.action is not Action.FAILOVER:
            self._refused = ""
        elif time.monotonic() >= self._retry_at:
            self._fail_over(self.trigger("appliance", verdict.why))

    def _observe(self, scenario: Scenario) -> Observation:
        why = self.replica.why_no_point_after_spool()
        return Observation(
            scenario=scenario.name,
            mode=scenario.mode,
            role="replica",
            link=scenario.link,
            heartbeat_age=self._silence(),
            checks=len(asked_here(scenario)),
            round=self._watcher.round(),
            consistent=why is None,
            why_inconsistent=why or "",
            watch=scenario.watch,
            observers=len(scenario.observer),
            why_not_fenced=taking.why_not_possible(scenario),
            calm_left=self._calm_left(scenario),
            told=self._told(),
            paused=self.paused(),
        )

    def _give_back(self) -> None:
        """A master that stands still for a switch which is over, or was forgotten, serves again."""
        beat = self.replica.last_heartbeat
        is_released = bool(beat and beat.report and beat.report.released and self.replica.is_connected)
        if is_released and self._may_order():
            self.say(str(self._order("resume", RESUME_SECONDS)))

    def _silence(self) -> float:
        """Seconds since the master's last sign of life, or since this watch began."""
        age = self.replica.heartbeat_age()
        return time.monotonic() - self._begun if age is None else age

    def _told(self) -> tuple[str, ...]:
        """The checks that fail by the master's own word."""
        beat = self.replica.last_heartbeat
        return tuple(check.why for check in beat.report.checks if not check.answered) if beat and beat.report else ()

    def _calm_left(self, scenario: Scenario) -> float:
        """Seconds until a failover by itself is allowed again."""
        try:
            ended = (self.replica.folder / ENDED).stat().st_mtime
        except FileNotFoundError:
            return 0.0
        return max(0.0, min(ended, time.time()) + scenario.watch.calm - time.time())

    def say(self, sentence: str) -> None:
        """To the log, once: numbers that only count up do not make it news."""
        kind = "".join(letter for letter in sentence if not letter.isdigit())
        if kind != self._said:
            self._said = kind
            print(f"rha appliance: {self.replica.name}: {sentence}", file=sys.stderr, flush=True)

    # Failing over ---------------------------------------------------------------------------------------------

    def trigger(self, by: str, reason: str) -> Trigger:
        return trigger(by, reason, self.replica.last_heartbeat, self.replica.heartbeat_age())

    def host(self) -> ReplicaHost:
        scenario = self.replica.scenario
        if scenario is None:
            raise StateError(f"{self.replica.name} was never connected", cause="its scenario is not known here")
        return ReplicaHost(self.replica, scenario, self._store, self._hang_up, self._means, self.say, self._order)

    def _go_on_with_switch(self) -> bool:
        """True when a switch was begun that leaves nothing to be watched. One that was cut off, or failed by itself, is
        tried again; a switchover that can be taken back is, and until it is the master is watched."""
        past = ledger.load(self.replica.folder)
        if past is None:
            return False
        if order := self._discarding.cut_off(past):
            self.say(self.discard(keep=order.keep, person=order.by, reason=order.reason))
            return True
        self.parted.tend(past)
        if is_revocable(past):
            if self._may_order() and not self._acting.locked():
                self._roll_back()
            return self._acting.locked()
        may = time.monotonic() >= self._retry_at and not self._acting.locked()
        again = past.is_unfinished or (past.state == FAILED and past.trigger.by == "appliance" and not self.paused())
        if again and may and self._failures < RETRIES:
            self._go_on(past)
        return True

    def _may_order(self) -> bool:
        """Is it time to tell the master to serve again? Then not again for a while."""
        now = time.monotonic()
        is_due = now >= self._order_at
        if is_due:
            self._order_at = now + RETRY_SECONDS
        return is_due

    def _roll_back(self) -> None:
        try:
            with self._acting:
                planned.roll_back(self.host(), self.vm, say=self.say)
        except RhaError as error:
            self.say(f"a switchover is not rolled back yet: {error!s}".replace("\n", "; "))

    def _go_on(self, past: Progress) -> None:
        if past.kind == ledger.SWITCHOVER:
            self._tried(lambda: self.switch_over(past.trigger))
        else:
            self._fail_over(past.trigger)

    def _fail_over(self, cause: Trigger) -> None:
        self._tried(lambda: self.fail_over(cause))

    def _tried(self, act: Callable[[], object]) -> None:
        """One attempt of the appliance's own."""
        try:
            act()
            self._failures = 0
        except RhaError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if ledger.load(self.replica.folder) is None:  # refused before anything began: tried again after a while
                self._refused = f"failover refused: {error!s}".replace("\n", "; ")
                self.say(self._refused)
                return
            self._failures += 1
            self.say(f"failover failed ({self._failures} of {RETRIES}): {error!s}".replace("\n", "; "))

    def fail_over(self, cause: Trigger, *, force: bool = False, wanted: Point | None = None) -> Progress:
        """Makes the substitute VM serve. Blocks until it does.

        Raises StateError when another failover is at work or the plan refuses, and the failed step's error.
        """
        with self._acting:
            return run_failover(self.host(), self.vm, cause, force=force, wanted=wanted, say=self.say)

    def switch_over(self, cause: Trigger) -> Progress:
        """The master hands its service over to a substitute VM. Blocks until that serves.

        Raises as `run_switchover`.
        """
        with self._acting:
            return run_switchover(self.host(), self.vm, cause, say=self.say)

    def discard(self, *, keep: bool = True, person: str = "appliance", reason: str = "") -> str:
        """Ends a failover: the substitute is removed, and the appliance receives again. What it wrote is kept aside
        first; `keep` False: it is removed, too.

        Raises StateError when there is no failover, or one is at work, and as Discarding.run.
        """
        folder, name, begun = self.replica.folder, self.replica.name, time.time()
        past = ledger.load(folder)
        if past is None:
            raise StateError(f"{name} has no substitute", cause="it has not failed over", hint="rha status")
        if is_revocable(past):
            raise StateError(f"a switchover of {name} is being rolled back", hint="rha status --watch")
        said = self._discarding.run(past, keep=keep, person=person, reason=reason)
        (folder / ENDED).touch()
        self.replica.restore_images()
        self._failures = 0
        sentence = f"{name}: the substitute is gone, the appliance waits for the master; {said}"
        switches.note(folder, "discard", person, reason, begun, sentence)
        return sentence

    def _release(self) -> None:
        """Whoever has taken the lease gives it back. Raises NetworkError when etcd does not answer."""
        scenario = self.replica.scenario
        if scenario and scenario.lease:
            self.say(taking.release(scenario, self._means))

    def why_not_receive(self, hello: Hello | None = None, peer: str = "") -> StateError | None:
        """The reason why the master may not connect: a substitute stands in its place. One that is only about to hand
        over may: it has to be told what becomes of it. `hello`: what it says is noted, and judged."""
        past = ledger.load(self.replica.folder)
        if past is None or is_revocable(past):
            return None
        return self.parted.refusal(past, hello, peer, self.say)

    # Maintenance ----------------------------------------------------------------------------------------------

    def paused(self) -> str:
        """The sentence of why nothing is done by itself; empty: it is."""
        found = maintenance.load(self.replica.folder)
        return found.sentence() if found and not found.is_over(time.time()) else ""

    def _end_pause(self) -> None:
        """Its time is over."""
        folder = self.replica.folder
        found = maintenance.load(folder)
        if found and found.is_over(time.time()):
            maintenance.end(folder)
            switches.note(folder, "resume", "appliance", "its time is over", time.time(), f"it was {found.sentence()}")
            self.say(f"no longer {found.sentence()}")

    # Report ---------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """The replica's report with what the watch and the failover add."""
        report = self.replica.report()
        past = ledger.load(self.replica.folder)
        if past is not None:
            report.vm = ledger.vm_report(past) if past.domain else None
            report.state, report.why = past.state, past.why or past.state
            report.health = "alarm" if past.state in (FAILED, ROLLING_BACK) else "warning"
            if past.point:
                report.consistent = past.point
            if split := self.parted.alarm(past):
                report.alarms, report.health = [*report.alarms, split], "alarm"
        elif self._verdict is not None and self._verdict.action is not Action.NONE:
            report.alarms = [*report.alarms, self._verdict.why, *filter(None, [self._refused])]
            report.health = "alarm"
        report.paused = self.paused()
        if report.paused and report.health == "ok":
            report.health = "warning"
        if self._bug:
            report.alarms, report.health = [*report.alarms, self._bug], "alarm"
        return report
