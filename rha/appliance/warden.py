"""Watches one scenario's master and fails over: the appliance's hands for what rha.watch and rha.switch decide."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from rha.appliance.replica import Replica
from rha.errors import RhaError, StateError, StorageError
from rha.fence import taking
from rha.fence.taking import Means
from rha.image.storage_daemon import ImageSpec
from rha.report import Point, Report
from rha.scenario import Scenario
from rha.switch import progress as ledger
from rha.switch.failover import discard_substitute, run_failover, steps_ahead
from rha.switch.progress import FAILED, Progress, Trigger, trigger
from rha.units import show_seconds
from rha.vm.base import VmHost
from rha.watch.verdict import Action, Observation, Verdict, judge
from rha.watch.watcher import AskObserver, Watcher, asked_here

LOOK_SECONDS = 0.5
ENDED = "failover.ended"  # its time: when the last failover was ended
RETRIES, RETRY_SECONDS = 5, 10.0  # of a failover that the appliance itself began: libvirt may be starting, too


class ReplicaHost:
    """What a failover needs of one replica (rha.switch.steps.FailoverHost)."""

    def __init__(
        self,
        replica: Replica,
        scenario: Scenario,
        store: Path,
        hang_up: Callable[[str], None],
        means: Means,
        say: Callable[[str], None],
    ) -> None:
        self.replica, self.scenario, self.store = replica, scenario, store
        self.folder = replica.folder
        self._hang_up, self._means, self._say = hang_up, means, say

    def why_not_consistent(self) -> str | None:
        return self.replica.why_no_point_after_spool()

    def cut_off(self) -> None:
        taking.cut_off(self.scenario, self._means, self._say)

    def stop_receiving(self) -> None:
        self.replica.retire()
        self._hang_up(self.replica.name)

    def apply_spool(self, limit_seconds: float) -> Point | None:
        """Raises StorageError when the journal cannot be applied in time."""
        if not self.replica.apply_spool(limit_seconds):
            raise StorageError(
                "the spool is not applied in time",
                cause=f"{self.replica.spool_bytes()} bytes left after {show_seconds(limit_seconds)}",
                hint=f"rha failover {self.replica.name} goes on with it",
            )
        return self.replica.point()

    def close_images(self, at: Point | None = None) -> list[ImageSpec]:
        """Raises StateError when the point has left the window."""
        return self.replica.give_up_images(self.replica.points.find(str(at.lsn)) if at else None)


class Warden(threading.Thread):
    """One scenario's watch. `hang_up(scenario)` ends its connection, if there is one."""

    def __init__(
        self,
        replica: Replica,
        store: Path,
        vm: VmHost,
        hang_up: Callable[[str], None],
        means: Means,
        ask_observer: AskObserver,
    ) -> None:
        super().__init__(name=f"watch-{replica.name}", daemon=True)
        self.replica = replica
        self._store, self._vm, self._hang_up, self._means = store, vm, hang_up, means
        self._begun = time.monotonic()
        self._stopping = threading.Event()
        self._watcher = Watcher(ask_observer, means.place.scripts)
        self._verdict: Verdict | None = None
        self._said = ""
        self._bug = ""
        self._refused = ""  # why the last failover that was due has not begun
        self._failures = 0
        self._retry_at = 0.0
        self._acting = threading.Lock()

    # Watching -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
                self._bug = ""
            except RhaError as error:
                self._say(str(error).replace("\n", "; "))
            except Exception as error:  # noqa: BLE001 - a bug must neither end the watch nor be hidden by its going on
                self._bug = f"bug in the watch: {error!r}"
                self._say("".join(traceback.format_exception(error)))

    def stop(self) -> None:
        """Ends the watch; a substitute that runs goes on running."""
        self._stopping.set()
        self._watcher.stop()
        if self.ident is not None:
            self.join()

    def _look(self) -> None:
        if self._go_on_with_failover():
            return
        self.replica.tend()
        scenario = self.replica.scenario
        if scenario is None:
            return
        verdict = self._verdict = judge(self._observe(scenario))
        if verdict.ask:
            self._watcher.ask(scenario, time.monotonic() - self._silence())
        if verdict.action is not Action.NONE:
            self._say(verdict.why)
        if verdict.action is not Action.FAILOVER:
            self._refused = ""
        elif time.monotonic() >= self._retry_at:
            self._fail_over(self._trigger("appliance", verdict.why))

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
        )

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

    def _say(self, sentence: str) -> None:
        """To the log, once: numbers that only count up do not make it news."""
        kind = "".join(letter for letter in sentence if not letter.isdigit())
        if kind != self._said:
            self._said = kind
            print(f"rha appliance: {self.replica.name}: {sentence}", file=sys.stderr, flush=True)

    # Failing over ---------------------------------------------------------------------------------------------

    def _trigger(self, by: str, reason: str) -> Trigger:
        return trigger(by, reason, self.replica.last_heartbeat, self.replica.heartbeat_age())

    def _host(self) -> ReplicaHost:
        scenario = self.replica.scenario
        if scenario is None:
            raise StateError(f"{self.replica.name} was never connected", cause="its scenario is not known here")
        return ReplicaHost(self.replica, scenario, self._store, self._hang_up, self._means, self._say)

    def _go_on_with_failover(self) -> bool:
        """True when a failover was begun. One that was cut off, or failed by itself, is tried again."""
        past = ledger.load(self.replica.folder)
        if past is None:
            return False
        again = past.is_unfinished or (past.state == FAILED and past.trigger.by == "appliance")
        if again and time.monotonic() >= self._retry_at and self._failures < RETRIES and not self._acting.locked():
            self._fail_over(past.trigger)
        return True

    def _fail_over(self, cause: Trigger) -> None:
        try:
            self.fail_over(cause)
            self._failures = 0
        except RhaError as error:
            if ledger.load(self.replica.folder) is None:  # refused before anything began: tried again after a while
                self._refused = f"failover refused: {error!s}".replace("\n", "; ")
                self._retry_at = time.monotonic() + RETRY_SECONDS
                self._say(self._refused)
                return
            self._failures += 1
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._say(f"failover failed ({self._failures} of {RETRIES}): {error!s}".replace("\n", "; "))

    def fail_over(self, cause: Trigger, *, force: bool = False) -> Progress:
        """Makes the substitute VM serve. Blocks until it does.

        Raises StateError when another failover is at work or the plan refuses, and the failed step's error.
        """
        with self._acting:
            return run_failover(self._host(), self._vm, cause, force=force, say=self._say)

    def fail_over_by_hand(self, person: str, *, force: bool, dry_run: bool) -> dict[str, object]:
        """The answer to `rha failover`: `sentence` and `steps`.

        Raises StateError while the master is connected, unless forced; else as `fail_over`.
        """
        host = self._host()
        if dry_run:
            return {"sentence": "nothing was changed", "steps": steps_ahead(host, self._vm, force=force)}
        if self.replica.is_connected and not force:
            raise StateError(
                f"the master of {self.replica.name} is connected",
                cause="it is alive; a substitute beside it would make two that write",
                hint=f"shut the master down first; rha failover {self.replica.name} --force overrules this",
            )
        progress = self.fail_over(self._trigger(person, "asked for by a person"), force=force)
        return {"sentence": progress.sentence(), "steps": [step.sentence for step in progress.steps]}

    def discard(self) -> str:
        """Ends a failover: the substitute and everything it wrote are removed, and the appliance receives again.

        Raises StateError when there is no failover, or one is at work.
        """
        folder, name = self.replica.folder, self.replica.name
        if ledger.load(folder) is None:
            raise StateError(f"{name} has no substitute", cause="it has not failed over", hint="rha status")
        discard_substitute(folder, self._vm, name, release=self._release, say=self._say)
        (folder / ENDED).touch()
        self.replica.restore_images()
        self._failures = 0
        return f"{name}: the substitute is gone, the appliance waits for the master"

    def _release(self) -> None:
        """Whoever has taken the lease gives it back. Raises NetworkError when etcd does not answer."""
        scenario = self.replica.scenario
        if scenario and scenario.lease:
            self._say(taking.release(scenario, self._means))

    def why_not_receive(self) -> StateError | None:
        """The reason why the master may not connect: a substitute stands in its place."""
        past = ledger.load(self.replica.folder)
        if past is None:
            return None
        return StateError(
            f"{self.replica.name} has failed over: the master must not serve",
            cause=f"{past.sentence()}; {past.trigger.reason}",
            hint=f"keep it off the network; on the appliance: rha status, or rha discard {self.replica.name}",
        )

    # Report ---------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """The replica's report with what the watch and the failover add."""
        report = self.replica.report()
        past = ledger.load(self.replica.folder)
        if past is not None:
            report.vm = ledger.vm_report(past)
            report.state, report.why = past.state, past.sentence()
            report.health = "alarm" if past.state == FAILED else "warning"
            if past.point:
                report.consistent = past.point
        elif self._verdict is not None and self._verdict.action is not Action.NONE:
            report.alarms = [*report.alarms, self._verdict.why, *filter(None, [self._refused])]
            report.health = "alarm"
        if self._bug:
            report.alarms, report.health = [*report.alarms, self._bug], "alarm"
        return report
