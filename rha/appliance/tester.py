"""One scenario's test boots on the appliance: asked for by a person, or due by the calendar."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from datetime import datetime
from pathlib import Path

import msgspec

from rha import schedule
from rha.appliance import catalog
from rha.appliance.bootreplica import BootReplica
from rha.appliance.replica import Replica
from rha.errors import RhaError, StateError
from rha.report import Report, Tested
from rha.scenario import BootTest
from rha.switch import bootplan, bootreport, testboot
from rha.switch.bootreport import ENDED, FAILED, PASSED, BootReport
from rha.switch.progress import Trigger, trigger
from rha.switch.testboot import TestBoot
from rha.units import show_seconds
from rha.vm.base import VmHost

LOOK_SECONDS = 5.0
RETRY_SECONDS = 60.0  # after a test that was due was refused, while its window lasts
END_SECONDS = 30.0  # that a switch waits for a test to be out of its way
_HEALTH = ("ok", "warning", "alarm")


class KnownSchedule(msgspec.Struct, kw_only=True):
    """`tests/schedule.json`: since when a schedule is known here. What it asked for before then was not missed."""

    days: str
    begin: str
    end: str
    since: float


class Tester(threading.Thread):
    """`slots`: of the whole appliance, one for each test that may run. `scripts`: the administrator's folder."""

    __test__ = False  # for pytest

    def __init__(self, replica: Replica, store: Path, vm: VmHost, slots: threading.Semaphore, scripts: Path) -> None:
        super().__init__(name=f"test-{replica.name}", daemon=True)
        self.replica = replica
        self._store, self._vm, self._slots, self._scripts = store, vm, slots, scripts
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._boot: TestBoot | None = None
        self._worker: threading.Thread | None = None
        self._outcome: BootReport | Exception | None = None  # of the last test that ran here
        self._must_clear = (replica.folder / bootreport.FOLDER).exists()
        self._refused = ""
        self._retry_at = 0.0
        self._said = ""
        self._last: BootReport | None = None
        self._shown: BootReport | None = None  # the last one that says something
        self._read_reports()
        self._seen = bootplan.Due(False)  # of the calendar
        replica.on_leave.append(self.give_way)

    # Looking at the calendar ------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except RhaError as error:
                self._say(str(error).replace("\n", "; "))
            except Exception as error:  # noqa: BLE001 - a bug must not end the looking
                self._say("".join(traceback.format_exception(error)))
            self._stopping.wait(LOOK_SECONDS)

    def stop(self) -> None:
        """Ends the looking. A test is ended when the replica is closed."""
        self._stopping.set()
        if self.ident is not None:
            self.join()

    def _look(self) -> None:
        if self._boot is not None:
            return
        if self._must_clear:
            self._clear()
        self._seen = self._due()
        if self._seen.now and time.monotonic() >= self._retry_at:
            self._begin_due()

    def _begin_due(self) -> None:
        test = self._test()
        why = f"due: {test.days} {test.begin}-{test.end}"
        self._retry_at = time.monotonic() + RETRY_SECONDS
        try:
            self._start(trigger("schedule", why), "", keep=False)
            self._refused = ""
        except RhaError as error:
            self._refused = str(error).replace("\n", "; ")
            self._say(f"the test that is due is refused: {self._refused}")

    def _test(self) -> BootTest:
        scenario = self.replica.scenario
        return scenario.test if scenario else BootTest()

    def _due(self) -> bootplan.Due:
        test, last = self._test(), self._last
        return bootplan.due(test, datetime.now(), last.begun if last else None, self._known_since(test))

    def _known_since(self, test: BootTest) -> float:
        if not test.days:
            return 0.0
        path = self.replica.folder / bootreport.FOLDER / "schedule.json"
        known = catalog.load(path, KnownSchedule)
        now = KnownSchedule(days=test.days, begin=test.begin, end=test.end, since=time.time())
        if known and (known.days, known.begin, known.end) == (now.days, now.begin, now.end):
            return known.since
        catalog.make_folder(path.parent)
        catalog.save(path, now)
        return now.since

    # Tests ------------------------------------------------------------------------------------------------------

    def _boot_of(self, cause: Trigger, at: str) -> TestBoot:
        scenario = self.replica.scenario
        if scenario is None:
            raise StateError(f"{self.replica.name} was never connected", cause="its scenario is not known here")
        host = BootReplica(self.replica, scenario, self._store, self._scripts)
        return TestBoot(host, self._vm, cause, at=at, say=self._say)

    def steps_ahead(self, at: str) -> list[str]:
        """What a test would do now, in sentences. Raises StateError, VmError as the test would."""
        return [step.sentence for step in self._boot_of(trigger("", ""), at).plan()]

    def test(self, person: str, reason: str, at: str, *, keep: bool) -> BootReport:
        """A test that a person asks for: blocks until its outcome is known.

        Raises StateError or VmError when it is refused, with nothing done.
        """
        self._start(trigger(person, reason), at, keep=keep).settled.wait()
        return self._result()

    def _start(self, cause: Trigger, at: str, *, keep: bool) -> TestBoot:
        with self._lock:
            if self._boot is not None:
                raise StateError(f"a test of {self.replica.name} is at work", hint="rha status --watch")
            if self._must_clear:
                self._clear()
            boot = self._boot_of(cause, at)
            boot.plan()
            if not self._slots.acquire(blocking=False):
                raise StateError(
                    "another test is at work on this appliance",
                    cause="each takes memory and processors",
                    hint="rha status; tests_at_once in appliance.toml",
                )
            self._boot = boot
            self._worker = threading.Thread(
                target=self._work, args=(boot, keep), name=f"boot-{self.replica.name}", daemon=True
            )
            self._worker.start()
            return boot

    def _read_reports(self) -> None:
        """One that was ended early says nothing of the replica: what an earlier one has found stays to be told."""
        reports = self.reports()
        self._last = reports[-1] if reports else None
        self._shown = next((report for report in reversed(reports) if report.outcome != ENDED), self._last)

    def _work(self, boot: TestBoot, keep: bool) -> None:
        try:
            self._outcome = boot.run(keep=keep)
        except Exception as error:  # noqa: BLE001 - told to who waits for it, or to the log
            self._outcome = error
            self._say("".join(traceback.format_exception(error)))
        finally:
            self._must_clear = (self.replica.folder / testboot.FILE).exists()
            self._read_reports()
            with self._lock:
                self._boot = None
            self._slots.release()
            boot.settled.set()

    def _result(self) -> BootReport:
        boot, found = self._boot, self._outcome
        if boot is not None and boot.kept is not None:
            return boot.kept
        if isinstance(found, BootReport):
            return found
        raise found or StateError("the test has ended without a report")

    def _clear(self) -> None:
        """What a test has left that nobody runs any more. Raises VmError, StorageError when that does not go yet."""
        folder, name = self.replica.folder, self.replica.name
        if testboot.clear_cut_off(folder, self._vm, name, self._test().keep, lambda: None, self._say):
            self._read_reports()
        self._must_clear = False

    def end(self, person: str) -> BootReport:
        """Ends the test that runs or is kept. Raises StateError when there is none."""
        with self._lock:
            boot, worker = self._boot, self._worker
            if boot is None or worker is None:
                raise StateError(f"no test of {self.replica.name} runs", hint=f"rha tests {self.replica.name}")
        boot.end(f"by {person}")
        worker.join()
        return self._result()

    def give_way(self, why: str) -> None:
        """Ends the test that runs, as something more important begins; waits until it is out of the way."""
        with self._lock:
            boot, worker = self._boot, self._worker
        if boot is None or worker is None:
            return
        self._say(f"the test that runs is ended: {why}")
        boot.end(why)
        worker.join(END_SECONDS)
        if worker.is_alive():
            self._say(f"the test was not out of the way after {show_seconds(END_SECONDS)}; it is left behind")

    def reports(self) -> list[BootReport]:
        """Oldest first."""
        return bootreport.read_all(self.replica.folder)

    def _say(self, sentence: str) -> None:
        """To the log, once."""
        if sentence != self._said:
            self._said = sentence
            print(f"rha appliance: {self.replica.name}: {sentence}", file=sys.stderr, flush=True)

    # Report -----------------------------------------------------------------------------------------------------

    def add_to(self, report: Report) -> Report:
        """The scenario's report, and what its tests add."""
        tested = self._tested()
        for text, health in concerns(tested):
            report.alarms = [*report.alarms, text]
            if report.health in _HEALTH:
                report.health = max(report.health, health, key=_HEALTH.index)
        report.test = tested
        return report

    def _tested(self) -> Tested | None:
        test, last, boot = self._test(), self._shown, self._boot
        if not test.days and last is None and boot is None:
            return None
        missed = self._seen.missed
        moment = schedule.next_begin(test.days, test.begin, datetime.now()) if test.days else None
        return Tested(
            time=last.begun if last else None,
            outcome=last.outcome if last else "",
            why=last.why if last else "",
            left=last.left if last and self._must_clear else "",
            running=(boot.progress.why if boot.progress else "it begins") if boot else "",
            missed="; ".join(filter(None, [missed, self._refused])) if missed else "",
            next=moment.timestamp() if moment else None,
        )


def concerns(tested: Tested | None) -> list[tuple[str, str]]:
    """What a person should know of a scenario's tests, and how bad it is: a replica that does not boot is none."""
    found = []
    if tested and tested.outcome == FAILED:
        found.append((f"the last test boot failed: {tested.why}", "alarm"))
    elif tested and tested.outcome and tested.outcome not in (PASSED, ENDED):
        found.append((f"the last test boot says nothing: {tested.outcome}, {tested.why}", "warning"))
    if tested and tested.missed:
        found.append((tested.missed, "warning"))
    if tested and tested.left:
        found.append((f"something of the last test boot is left: {tested.left}", "warning"))
    return found
