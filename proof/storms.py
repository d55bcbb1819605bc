"""Storms: engines and the appliance killed, links cut, rings overflowed, all at random moments and under load; then
everything must be equal, nothing lost, and nothing of it silent.

Each scenario (a victim) is tormented by a thread of its own, the appliance by another. What each does, and how long it
waits, comes from the seed; how the threads meet does not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from proof import replay
from proof.lab import MIB, Appliance, Lab, wait_for
from proof.oracle_a import KEEP_ALL, MEMORY, Verdict, differing_end, walk
from proof.position import Position
from proof.proxy import Proxy
from proof.remains import image_of
from proof.replay import Follower, Replay
from proof.stamp import SequenceRule, StampWriter
from proof.weather import Clock, busy_processors, clock_steps, little_memory

SETTLE_SECONDS = 180.0
PATIENCE_SECONDS = 120.0  # an engine that found the appliance dead some times in a row waits for up to 30 s
# Under memory pressure: what an engine needs besides its ring, and an appliance of two scenarios, with a little to
# spare. In less they are killed again and again: 110 MiB of an appliance is no page cache.
ENGINE_BYTES, APPLIANCE_BYTES = 112 * MIB, 192 * MIB


@dataclass
class Tally:
    """What a storm did, and what was wrong afterwards. `kernel_kills`: appliances that ended by themselves, for want of
    memory; `failures`: sentences."""

    name: str
    seed: int
    kills_engine: int = 0
    kills_appliance: int = 0
    overflows: int = 0
    link_cuts: int = 0
    clock_steps: int = 0
    kernel_kills: int = 0
    cuts: int = 0
    lost_bytes: int = 0
    silent_gaps: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How often each thing happens to every victim, and to the appliance. `ring`: bytes of the rings; `may_resync`:
    false where everything fits into the ring, and a second sync would be a fault; `weather`: names from `WEATHER`."""

    name: str
    victims: int
    kills: int
    cuts: int
    overflows: int
    appliance_kills: int
    ring: str = "64MiB"
    may_resync: bool = True
    weather: tuple[str, ...] = ()


class Torment(threading.Thread):
    """A thread whose failure is kept and raised by `finish`."""

    def __init__(self, name: str, seed: int, act: Callable[[random.Random], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._draw, self._act = random.Random(seed), act
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._act(self._draw)
        except BaseException as error:  # noqa: BLE001 - raised again in `finish`
            self._failure = error

    def finish(self) -> None:
        self.join()
        if self._failure:
            raise self._failure


class Victim:
    """One scenario with its disk, its link, its engine and a writer of stamps."""

    def __init__(self, storm: Storm, number: int, stack: ExitStack) -> None:
        lab, plan = storm.lab, storm.plan
        self.tally, self.plan = storm.tally, plan
        self.disk = lab.disk(32 * MIB)
        self.proxy = stack.enter_context(Proxy(lab.port))
        name = f"storm-{os.getpid()}-{number}"
        self.engine = lab.engine([self.disk.path], name=name, ring=plan.ring, port=self.proxy.port)
        self.engine.start()
        self.position = stack.enter_context(Position(name))
        self.log = storm.images / f"log-{number}"
        self.stamps = StampWriter(
            self.log, [self.disk.path], seed=storm.seed * 100 + number, threads=8, pause_us=30_000, longest=64
        )
        stack.callback(self.stamps.stop)
        files = [storm.images / f"follow-{number}.raw"]
        self.journal = lab.appliance.store / name / "journal"
        self.follower = Follower(self.journal, files, (self.disk.bytes,))

    def begin(self) -> None:
        wait_for(lambda: self.engine.state() == "write-order", PATIENCE_SECONDS, self.engine.report)
        self.stamps.start()

    def torment(self, draw: random.Random) -> None:
        """All that the plan has for this victim, in random order."""
        plan = self.plan
        acts = [self.kill] * plan.kills + [self.cut] * plan.cuts + [self.overflow] * plan.overflows
        draw.shuffle(acts)
        for act in acts:
            time.sleep(draw.random() * 0.4)
            act(draw)

    def kill(self, draw: random.Random) -> None:
        """`kill -9` of the engine, also while it starts, adopts, greets or syncs."""
        if self.engine.is_running:
            self.tally.kills_engine += 1
        elif not self.plan.weather:
            raise AssertionError(f"{self.engine.name} ended by itself: {self.engine.log()[-3000:]}")
        self.engine.kill()
        time.sleep(draw.random() * 0.2)
        self.engine.launch()
        time.sleep(draw.random() * 0.5)
        if draw.random() < 0.5:
            wait_for(
                lambda: self.engine.report()["connected"] or not self.engine.is_running,
                PATIENCE_SECONDS,
                self.engine.report,
            )

    def cut(self, draw: random.Random) -> None:
        """Both ends of the connection, whatever they were saying."""
        wait_for(
            lambda: self.engine.report()["connected"],
            PATIENCE_SECONDS,
            lambda: (self.engine.report(), self.engine.log()),
        )
        before = self.proxy.cuts
        self.proxy.cut()
        self.tally.link_cuts += self.proxy.cuts > before

    def overflow(self, draw: random.Random) -> None:
        """The engine is stopped, the writer hurries, until the ring is full."""
        wait_for(
            self.position.is_capturing, PATIENCE_SECONDS, lambda: (self.engine.report(), self.engine.log()[-2000:])
        )
        if draw.random() < 0.3:
            wait_for(lambda: self.engine.state() == "write-order", PATIENCE_SECONDS, self.engine.report)
        process, before = self.engine.process, self.position.overflows()
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self.stamps.hurry(True)
        wait_for(lambda: self.position.overflows() > before, 60, "the ring does not overflow")
        self.stamps.hurry(False)
        self.tally.overflows += 1
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGCONT)

    def compare_stopped(self, appliance: Appliance) -> str | None:
        """The appliance stands: its image must be the replay up to its checkpoint. The difference, or None."""
        folder = appliance.store / self.engine.name
        self.follower.to(int(json.loads((folder / "checkpoint.json").read_text())["position"]))
        return why_differs(image_of(folder, "d0"), self.follower.files[0])


def why_differs(image: Path, raw: Path) -> str | None:
    """qemu-img's words when a qcow2 image is not a raw file's content."""
    words = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(image), str(raw)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{image.name}: {done.stdout.strip()}{done.stderr.strip()}"


class Storm:
    """One storm from its first sync to its verdict."""

    def __init__(self, plan: Plan, seed: int, stack: ExitStack) -> None:
        self.plan, self.seed, self._stack = plan, seed, stack
        self.tally = Tally(plan.name, seed)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-storm-", ignore_cleanup_errors=True)))
        self.images = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-storm-", dir=MEMORY)))
        self.lab = Lab(folder, MEMORY, stack, settings=KEEP_ALL)
        self.clock = Clock(folder, seed)
        self.lab.appliance.start()
        self.victims = [Victim(self, number, stack) for number in range(plan.victims)]

    def run(self) -> Tally:
        began = time.monotonic()
        for victim in self.victims:
            victim.begin()
        with ExitStack() as weather:
            for name in self.plan.weather:
                weather.enter_context(WEATHER[name](self))
            self._torment()
        self.tally.clock_steps = self.clock.steps
        self._settle()
        for victim in self.victims:
            self._judge(victim)
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _torment(self) -> None:
        victims = [Torment(f"victim-{i}", self.seed + i, one.torment) for i, one in enumerate(self.victims)]
        appliance = Torment("appliance", self.seed - 1, self._torment_appliance)
        for torment in (*victims, appliance):
            torment.start()
        appliance.finish()
        while any(torment.is_alive() for torment in victims):
            self._restart_appliance()
            time.sleep(0.5)
        for torment in victims:
            torment.finish()

    def _restart_appliance(self) -> None:
        """As a service manager does: with little memory the kernel may have killed it."""
        if not self.lab.appliance.is_running:
            self.tally.kernel_kills += 1
            self.lab.appliance.launch()

    def _torment_appliance(self, draw: random.Random) -> None:
        """Killed, mostly; every sixth time it is stopped instead, and its images are looked at."""
        appliance = self.lab.appliance
        for number in range(self.plan.appliance_kills):
            time.sleep(0.2 + draw.random() * 1.2)
            if number % 6 == 5 and appliance.is_running:
                wait_for(lambda: bool(appliance.reports()) or not appliance.is_running, PATIENCE_SECONDS, appliance.log)
                self._stop_and_compare()
            else:
                self.tally.kills_appliance += appliance.is_running
                appliance.kill()
            time.sleep(draw.random() * 0.3)
            appliance.launch()
            if draw.random() < 0.7:
                wait_for(lambda: bool(appliance.reports()) or not appliance.is_running, PATIENCE_SECONDS, appliance.log)
            if number % 2:  # else engines that find nobody, time and again, wait longer and longer, and rings overflow
                wait_for(self._is_all_connected, PATIENCE_SECONDS, lambda: appliance.log()[-3000:])

    def _is_all_connected(self) -> bool:
        """Every engine that runs, as far as one can say while they are killed."""
        engines = [victim.engine for victim in self.victims]
        return all(engine.report()["connected"] or not engine.is_running for engine in engines)

    def _stop_and_compare(self) -> None:
        self.lab.appliance.stop()
        for victim in self.victims:
            self.tally.cuts += 1
            if why := victim.compare_stopped(self.lab.appliance):
                self._fail(f"{victim.engine.name}, appliance stopped at position {victim.follower.position}: {why}")

    def _fail(self, why: str) -> None:
        self.tally.failures.append(f"{self.plan.name}, seed {self.seed}: {why}")

    def _settle(self) -> None:
        """Calm: every engine in write order, verified, quiet; then everything stopped."""
        if not self.lab.appliance.is_running:
            self.lab.appliance.launch()
        for victim in self.victims:
            if not victim.engine.is_running:
                victim.engine.launch()
        for victim in self.victims:
            wait_for(lambda v=victim: v.engine.state() == "write-order", SETTLE_SECONDS, victim.engine.report)  # type: ignore[misc]
            victim.stamps.stop()
            victim.disk.sync()
            victim.engine.wait_ordered(SETTLE_SECONDS)
            answer = victim.engine.verify()
            if not (answer["equal"] and answer["quiet"]):
                self._fail(f"{victim.engine.name}: rha verify says {answer}")
            self.lab.appliance.wait_applied(victim.engine.name, SETTLE_SECONDS)
            victim.engine.stop()
        self.lab.appliance.stop()

    def _judge(self, victim: Victim) -> None:
        """Disk, image and journal against each other, and the writer's rule at cuts of what was claimed ordered."""
        image = self.lab.appliance.image(victim.engine.name, "d0")
        if why := why_differs(image, victim.disk.file):
            self._fail(f"{victim.engine.name}: disk and image: {why}")
        found = replay.scan(victim.journal)
        if not self.plan.may_resync and (found.syncs, found.losses, found.generations) != (1, 0, 1):
            self._fail(
                f"{victim.engine.name}: {found.syncs} syncs, {found.losses} gaps where everything was in the ring"
            )
        rule = SequenceRule(victim.log, found.sizes)

        def judge(cut: int, at: Replay) -> str | None:
            broken = rule.fault(at.images)
            self.tally.silent_gaps += broken is not None
            return broken.sentence if broken else None

        verdict = Verdict(f"{self.plan.name} {victim.engine.name}")
        folder = Path(tempfile.mkdtemp(dir=self.images))
        end = walk(verdict, found, 60, self.seed, folder, judge)
        self.tally.cuts += verdict.cuts
        self.tally.lost_bytes += rule.lost_bytes(end.images)
        self.tally.failures += verdict.failures + differing_end(end, [victim.disk.file])


def _clock(storm: Storm) -> AbstractContextManager[None]:
    for daemon in [storm.lab.appliance, *(victim.engine for victim in storm.victims)]:
        storm.clock.governs(daemon)
    return clock_steps(storm.clock)


def _memory(storm: Storm) -> AbstractContextManager[None]:
    engines = [(victim.engine, ENGINE_BYTES) for victim in storm.victims]
    return little_memory([(storm.lab.appliance, APPLIANCE_BYTES), *engines])


WEATHER: dict[str, Callable[[Storm], AbstractContextManager[None]]] = {
    "clock": _clock,
    "memory": _memory,
    "processors": lambda storm: busy_processors(),
}

PLANS = (
    Plan("kills", 3, kills=45, cuts=10, overflows=0, appliance_kills=60, may_resync=False),
    Plan("overflows", 3, kills=8, cuts=4, overflows=18, appliance_kills=25, ring="4MiB"),
    Plan("clock", 2, kills=10, cuts=5, overflows=1, appliance_kills=15, ring="16MiB", weather=("clock",)),
    Plan("processors", 2, kills=8, cuts=4, overflows=1, appliance_kills=12, ring="16MiB", weather=("processors",)),
    Plan("memory", 2, kills=8, cuts=4, overflows=1, appliance_kills=12, ring="16MiB", weather=("memory",)),
)


def run(plan: Plan, seed: int) -> Tally:
    """One storm. AssertionError when it could not even be brought to its end."""
    with ExitStack() as stack:
        return Storm(plan, seed, stack).run()


def told(plan: Plan, seed: int, say: Callable[[str], None]) -> Tally:
    """`run`, and a sentence about it."""
    tally = run(plan, seed)
    say(
        f"storm {tally.name}, seed {tally.seed}: {tally.kills_engine} + {tally.kills_appliance} kills, "
        f"{tally.overflows} overflows, {tally.link_cuts} cut links in {tally.seconds:.0f} s; "
        f"{tally.lost_bytes} bytes lost, {tally.silent_gaps} silent gaps, {len(tally.failures)} failures"
    )
    return tally
