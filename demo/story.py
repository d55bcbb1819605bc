"""The story, step by step. Every step registers what undoes it before it can fail; `tell` leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from demo import client, hypervisor, product
from demo.database import Database
from demo.disk import MasterDisk
from demo.judge import Verdict, judge
from demo.ledger import AckLog
from demo.narrator import Narrator
from demo.observer import Observer
from demo.result import Result
from demo.setting import ROOT, SCENARIO, Setting
from rha.errors import StateError, StorageError, VmError
from rha.units import show_bytes, show_seconds

UNDER_PROTECTION_SECONDS = 20.0
DATABASE_SECONDS = 60.0
SYNC_SECONDS = 180.0
FAILOVER_SECONDS = 120.0
BOOT_SECONDS = 240.0
NEEDED_BYTES = 6 << 30


class Story:
    """One run. `result` holds what was measured so far, also when the run fails."""

    def __init__(self, setting: Setting, narrator: Narrator, stack: ExitStack) -> None:
        self.result = Result()
        self._setting, self._narrator, self._stack = setting, narrator, stack
        self._disk = MasterDisk(setting.work / "master.raw", setting.work / "master")

    def tell(self) -> Verdict:
        """Runs the whole story.

        Raises RhaError when a step fails; what the substitute holds is in the verdict.
        """
        self._prepare()
        self._start_master()
        self._protect()
        self._verify()
        self._serve()
        began, ended = self._lose_master()
        self._await_substitute(began)
        return self._compare(ended)

    def _prepare(self) -> None:
        image = Path(subprocess.check_output([ROOT / "vm-images" / "build-master"], text=True).strip())
        self._stack.enter_context(hypervisor.running(self._setting.logs))
        self._sweep()
        self._stack.callback(self._sweep)
        self._setting.work.mkdir(mode=0o755)
        free = shutil.disk_usage(self._setting.work).free
        if free < NEEDED_BYTES:
            cause = f"{show_bytes(free)} are free in {self._setting.work}; {show_bytes(NEEDED_BYTES)} are needed"
            raise StorageError("not enough space for the demo", cause=cause, hint="df -h /var/lib")
        self._disk.attach(image)
        self._narrator.say(f"a Debian 12 server's disk is {self._disk.device} ({image.name})")

    def _sweep(self) -> None:
        """Domains, mounts, loop devices and files of this run, or of one that was killed."""
        hypervisor.remove_domains(self._setting.work)
        self._disk.detach()
        if self._setting.work.exists():
            shutil.rmtree(self._setting.work)

    def _start_master(self) -> None:
        port = self._setting.master_port
        self._database = Database(self._disk.mount_point, port, self._setting.logs / "master-postgresql.log")
        self._stack.callback(self._database.kill)
        client.wait_for_database(port, DATABASE_SECONDS)
        self._log = AckLog(self._setting.logs / "commits.log")
        self._stack.callback(self._log.close)
        self._writer = client.Writer(port, self._log)
        self._stack.callback(self._writer.stop)
        self._narrator.say("its PostgreSQL runs from that disk; a client commits numbered rows and logs every answer")

    def _protect(self) -> None:
        setting = self._setting
        setting.write(self._disk)
        self._observer = Observer(setting.run_dir, SCENARIO)
        self._stack.callback(self._observer.stop)
        self._appliance = self._daemon("appliance", "--config", setting.appliance_file)
        self._stack.callback(self._unload)
        began = time.monotonic()
        self._engine = self._daemon("engine", "--scenario", setting.scenario_file)
        self._narrator.say("appliance and engine are started; first sync, while the client goes on")
        self._wait("the first sync", SYNC_SECONDS, self._observer.is_protected, self._sync_line)
        self.result.sync_seconds = time.monotonic() - began
        self._narrator.say(
            f"in write order after {show_seconds(self.result.sync_seconds)}, {len(self._log)} commits so far"
        )

    def _daemon(self, name: str, option: str, file: Path) -> product.Daemon:
        log = self._setting.logs / f"{name}.log"
        daemon = product.Daemon(name, [option, str(file)], self._setting.run_dir, log)
        self._stack.callback(daemon.stop)
        return daemon

    def _unload(self) -> None:
        """Takes the probe out of the kernel; runs after the engine has ended and before the disk goes away."""
        words = ("engine", "--scenario", str(self._setting.scenario_file), "--unload")
        product.rha(*words, run_dir=self._setting.run_dir)

    def _sync_line(self) -> str:
        report = self._observer.engine
        sync = next((disk.sync for disk in report.disks if disk.sync), None) if report else None
        if sync is None:
            return "first sync: " + (report.why if report else "the engine starts")
        done, total = show_bytes(sync.done_bytes), show_bytes(sync.total_bytes)
        return f"first sync: {done} of {total}, {show_bytes(sync.rate_bytes)}/s, {len(self._log)} commits"

    def _verify(self) -> None:
        self._writer.pause()
        with self._disk.frozen():
            words = ("verify", SCENARIO, "--json")
            answer = product.rha(*words, run_dir=self._setting.run_dir, may_differ=True)
        self._writer.go_on()
        self.result.verify_equal = bool(msgspec.json.decode(answer)["equal"])
        equality = "equal, block by block" if self.result.verify_equal else "DIFFERENT"
        self._narrator.say(f"file system frozen for a moment: disk and image are {equality}")

    def _serve(self) -> None:
        end = time.monotonic() + UNDER_PROTECTION_SECONDS
        self._narrator.say(f"{UNDER_PROTECTION_SECONDS:.0f} s of normal service")
        self._wait("normal service", UNDER_PROTECTION_SECONDS + 5, lambda: time.monotonic() >= end, self._service_line)
        if not self._writer.is_running():
            raise StateError("the client's database failed before the master was lost", cause=self._writer.end)
        report = self._observer.engine
        if report is not None:
            self.result.records, self.result.payload_bytes = report.records, report.payload_bytes
            self.result.dropped = sum(sum(disk.losses.values()) for disk in report.disks)

    def _service_line(self) -> str:
        report = self._observer.engine
        lag = "" if report is None or report.lag_bytes is None else f", lag {show_bytes(report.lag_bytes)}"
        return f"{len(self._log)} commits{lag}"

    def _lose_master(self) -> tuple[float, float]:
        """Engine first: commits of the last milliseconds are then acknowledged and not shipped, as in a real loss.

        Returns when the loss began and when the master could answer no more, seconds since the epoch.
        """
        began = time.time()
        self._engine.kill()
        self._disk.cut_power()
        self._database.kill()
        ended = time.time()
        self._writer.stop()
        self._disk.detach()
        self._narrator.say(
            f"MASTER LOST after {len(self._log)} commits: engine and database killed, disk cut off unsynced"
        )
        return began, ended

    def _await_substitute(self, began: float) -> None:
        self._wait("failover", FAILOVER_SECONDS, lambda: self._observer.failed_over_at is not None, self._failover_line)
        failed_over_at = self._observer.failed_over_at or began
        self.result.detect_seconds = failed_over_at - began
        self._narrator.say(
            f"the appliance has noticed after {show_seconds(failed_over_at - began)} and starts a substitute VM"
        )
        answered: list[float] = []
        port = self._setting.substitute_port
        self._wait("the substitute's database", BOOT_SECONDS, lambda: _answers(port, answered), self._failover_line)
        self.result.boot_seconds = answered[0] - failed_over_at
        self.result.rto_seconds = answered[0] - began
        self._narrator.say(f"PostgreSQL answers in the substitute {show_seconds(answered[0] - began)} after the loss")

    def _failover_line(self) -> str:
        report = self._observer.appliance
        if report is None:
            return "the appliance has not answered yet"
        vm = f"; VM {report.vm.state}" if report.vm else ""
        return f"appliance: {report.state}, {report.why}{vm}"

    def _compare(self, ended: float) -> Verdict:
        found = client.read_back(self._setting.substitute_port)
        verdict = judge(self._log.acks(), self._writer.sent, found, self._observer.promise, ended)
        result = self.result
        result.commits_acknowledged, result.commits_lost = verdict.acknowledged, len(verdict.lost)
        result.gaps, result.rpo_seconds = len(verdict.gaps), verdict.rpo_seconds
        report = self._observer.appliance
        if report is not None and report.vm is not None:
            result.accelerator = report.vm.accelerator
        image = max(self._setting.store.rglob("*.qcow2"), key=lambda path: path.stat().st_blocks, default=None)
        if image is not None:
            result.image, result.image_format = str(image.relative_to(self._setting.work)), "qcow2"
        return verdict

    def _wait(self, what: str, seconds: float, is_done: Callable[[], bool], line: Callable[[], str]) -> None:
        """Looks four times a second. Raises StateError when time is up, or when a daemon that should run has ended."""
        deadline = time.monotonic() + seconds
        while not is_done():
            self._appliance.check()
            if self._observer.failed_over_at is None and self._writer.is_running():
                self._engine.check()
            if time.monotonic() > deadline:
                raise StateError(
                    f"{what} took more than {seconds:.0f} s", cause=line(), hint=f"see {self._setting.logs}"
                )
            self._narrator.progress(line())
            time.sleep(0.25)


def _answers(port: int, answered: list[float]) -> bool:
    """True, and the time noted, when the substitute's database answers a query."""
    try:
        answered.append(client.wait_for_database(port, seconds=0))
    except VmError:
        return False
    return True
