"""What scenes of a lost master have in common: from the loss to clients on the substitute, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from demo import product
from lab import SCENARIO, WORK, database, setting, substitute
from lab.judge import Sites, Story, Verdict, judge
from lab.places import HOST
from lab.result import Result
from lab.stage import Stage
from rha.errors import StateError
from rha.units import show_seconds

NOTICE_SECONDS = 90.0
START_SECONDS = 120.0
BOOT_SECONDS = 900.0
REDIRECT_SECONDS = 60.0
SERVE_SECONDS = 8.0  # of normal service before the loss, and on the substitute after it
BEHIND_ITSELF = "10.0.2.15"  # the substitute in its user network


class Failover:
    """One loss and what came of it. `result` holds what is known so far."""

    def __init__(self, stage: Stage, result: Result) -> None:
        self.stage, self.result = stage, result
        self.lost_at = 0.0
        self._started_at = 0.0  # of the domain

    def lose(self, act: Callable[[], object], said: str) -> None:
        """The loss happens here and now."""
        self.stage.serve(SERVE_SECONDS)
        commits = sum(len(self.stage.acknowledged(name)) for name in self.stage.attempts_of)
        self.lost_at = time.time()
        act()
        self.stage.narrator.say(f"{said}, after {commits} commits")

    def follow(self, client: str) -> None:
        """Until `client` has commits on the substitute. Raises StateError."""
        stage, observer = self.stage, self.stage.observer
        noticed = stage.wait("noticing the loss", NOTICE_SECONDS, lambda: observer.failed_over_at is not None)
        self.result.detect_seconds = (observer.failed_over_at or noticed) - self.lost_at
        stage.narrator.say(f"the appliance acts, {show_seconds(self.result.detect_seconds)} after the loss")
        self.wait_start()
        self.wait_served(client)

    def wait_start(self) -> None:
        """Until libvirt has the substitute active."""
        self._started_at = self.stage.wait("the substitute's start", START_SECONDS, substitute.runs)
        self.stage.narrator.say("the substitute VM is started")

    def wait_served(self, client: str) -> None:
        """Until the substitute's database answers, and a client has got there by the name. Without `wait_start` before,
        only the whole is measured."""
        stage, result = self.stage, self.result
        served_at = stage.wait("the substitute's boot", BOOT_SECONDS, substitute.serves, substitute.EVERY_SECONDS)
        if self._started_at:
            result.boot_seconds = served_at - self._started_at
            stage.narrator.say(f"its database answers, {show_seconds(result.boot_seconds)} after its start")
        stage.wait(f"{client}'s way there", REDIRECT_SECONDS, lambda: stage.acknowledged(client, HOST))
        first = stage.acknowledged(client, HOST)[0].acked or 0.0
        result.rto_seconds = first - self.lost_at
        if self._started_at:
            result.redirect_seconds = first - served_at
        where = ", ".join(stage.places.leads_to())
        rto = show_seconds(result.rto_seconds)
        stage.narrator.say(f"the name leads to {where}; the client commits there, {rto} after the loss")
        stage.serve(SERVE_SECONDS)

    def verdict(self, ends: Sequence[str]) -> Verdict:
        """Stops the clients, reads both databases, and judges. Raises StateError while the master runs."""
        stage, result = self.stage, self.result
        stage.stop_clients()
        self._demand_off()
        held = database.read(HOST, 5432)
        on_master = database.read_disks(stage.disks, WORK)
        sites = Sites(setting.service(stage.guard), HOST, BEHIND_ITSELF)
        attempts = {name: stage.attempts(name) for name in stage.attempts_of}
        promise = stage.observer.promise + stage.ahead_seconds
        found = judge(Story(sites, attempts, held, on_master, promise, self.lost_at, ends))
        result.commits_acknowledged, result.commits_lost = found.acknowledged, found.lost
        result.rpo_seconds = found.rpo_seconds
        result.why = "; ".join(found.faults)
        lost = f"{found.lost} of the last {show_seconds(found.rpo_seconds)} lost" if found.lost else "none lost"
        stage.narrator.say(f"{found.acknowledged} commits acknowledged, {lost}; {result.why or 'nothing against it'}")
        return found

    def _demand_off(self) -> None:
        pid = self.stage.machine.pid
        if self.stage.machine.is_on:
            raise StateError("the master runs beside its substitute", cause=f"QEMU is process {pid}")
        self.stage.machine.cut_power()  # takes note of its end

    def compare_boot(self) -> None:
        """Boots the same disks plainly, as the figure to compare with. Ends the substitute."""
        self.result.plain_boot_seconds = substitute.plain_boot(WORK)
        self.stage.narrator.say(
            f"a plain virsh start of the same disks: {show_seconds(self.result.plain_boot_seconds)}"
        )

    def discard(self) -> None:
        """`rha discard`: the substitute goes, and the name leads to the master again. Raises StateError."""
        stage = self.stage
        product.rha("discard", SCENARIO, "--yes", run_dir=stage.site.run_dir)
        where, wanted = stage.places.leads_to(), [setting.service(stage.guard)]
        if where != wanted or substitute.runs():
            raise StateError("rha discard left something behind", cause=f"the name leads to {where}")
        stage.narrator.say("rha discard: the substitute is gone, the name leads to the master again")
