"""How long a service is away besides its own boot: from the decision to a started VM, and until its guest speaks.

A whole master and appliance on one host, a real libvirt; the guest is a boot sector that says one line on its serial
port, so its boot is the firmware's and nothing else. The same domain is then started by `virsh start` alone. What a
failover waits for before its decision (detection) is not in these figures; `rha failover` decides at once.

Its bus is named, so nobody looks into it for drivers: how long that takes stands in docs/guest.md.

A switchover is counted from the moment the master is told to stand still. Its unit ends as soon as it is told to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import figures as f
from bench.lab import remove_domain
from proof.lab import RHA, Lab, environment, run, wait_for
from rha.switch import progress as ledger
from rha.switch.plan import StepName
from rha.switch.progress import Progress
from rha.vm.base import domain_name
from tests.fence.master import SYSTEMCTL
from tests.vm.sectors import printing_disk

ROUNDS = 5
WORD = b"it serves"
UNIT = "app.service"
POLL_SECONDS, GIVE_UP_SECONDS = 0.005, 120.0

Row = dict[str, object]


class Site:
    """A protected master whose one unit is a process that does nothing."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        self.lab = Lab(folder, Path("/dev/shm"), stack)
        self.store = Path(tempfile.mkdtemp(prefix="rha-bench-", dir="/var/lib"))  # QEMU's user reaches it
        stack.callback(shutil.rmtree, self.store)
        config = folder / "appliance.toml"
        config.write_text(config.read_text().replace(str(folder / "store"), str(self.store)))
        self.lab.appliance.store = self.store
        for name, text in (("systemctl", SYSTEMCTL), (UNIT, "#!/bin/sh\nexec sleep 86400\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.systemctl = folder / "systemctl"
        disk = self.lab.disk(1 << 20)
        Path(disk.path).write_bytes(printing_disk(folder / "boot.raw", WORD + b"\r\n").read_bytes())
        vm = '[vm]\nmemory = "64MiB"\naccelerator = "tcg"\nbus = "virtio"\n'
        more = f'{vm}[switch]\nunits = ["{UNIT}"]\nlimit = "30s"\n'
        self.engine = self.lab.engine([disk.path], name=f"bench-{os.getpid()}", more=more)
        self.engine.variables["PATH"] = f"{folder}:{os.environ['PATH']}"
        self.domain = domain_name(self.engine.name)
        stack.callback(self._end)
        self.lab.appliance.start()

    def _end(self) -> None:
        self.lab.appliance.kill()
        remove_domain(self.domain)
        run(self.systemctl, "kill", UNIT)

    def protect(self) -> None:
        self.engine.start()
        self.engine.wait_ordered()
        self.lab.appliance.wait_applied(self.engine.name)
        run(self.systemctl, "start", UNIT)

    def words(self, verb: str) -> list[str]:
        return [*RHA, verb, self.engine.name, "--yes"]

    def rha(self, verb: str, *more: str) -> None:
        variables = environment(self.lab.folder / "run")
        subprocess.run([*self.words(verb), *more], env=variables, check=True, stdout=subprocess.DEVNULL)

    def past(self) -> Progress:
        past = ledger.load(self.store / self.engine.name)
        assert past is not None
        return past

    def spoken(self) -> int:
        path = self.store / self.engine.name / "console.log"
        return path.read_bytes().count(WORD) if path.exists() else 0

    def until_it_speaks(self, words: list[str]) -> float:
        """Runs a command; when the guest has said its word once more (seconds since the epoch)."""
        before, variables = self.spoken(), environment(self.lab.folder / "run")
        process = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL)
        end = time.monotonic() + GIVE_UP_SECONDS
        while self.spoken() == before:
            assert time.monotonic() < end, f"{words}: the guest says nothing"
            time.sleep(POLL_SECONDS)
        spoke = time.time()
        assert process.wait() == 0, words
        return spoke


def measure() -> list[Row]:
    """Medians with spread, in seconds."""
    started, above, switched, stood = list[Failed](), list[float](), list[float](), list[float]()
    with ExitStack() as stack:
        site = Site(stack)
        for _ in range(ROUNDS):
            site.protect()
            site.engine.kill()
            wait_for(lambda: not site.lab.appliance.report(site.engine.name)["connected"], 60)
            started.append(_failed_over(site, above))
            site.rha("discard", "--no-keep")
        site.protect()
        for _ in range(ROUNDS):
            site.rha("switchover")
            past = site.past()
            steps = {step.name: step for step in past.steps}
            start, release = steps[StepName.START_DOMAIN], steps[StepName.RELEASE]
            switched.append(start.begun + (start.seconds or 0.0) - release.begun)
            stood.append(release.seconds or 0.0)
            site.rha("discard", "--no-keep")
            wait_for(lambda: not site.engine.report()["released"], 120)
            site.engine.wait_ordered()
    return [
        {
            "name": "failover: decision to VM started",
            "load": f.load(),
            "seconds": f.spread([one.started for one in started], 3),
        },
        {"name": "failover: of that, libvirt's own start", "seconds": f.spread([one.by_libvirt for one in started], 3)},
        {
            "name": "failover: its steps",
            **{f"{name}_seconds": f.spread([one.steps[name] for one in started], 3) for name in started[0].steps},
        },
        {
            "name": "failover: decision to the guest's first word, less a plain virsh start",
            "seconds": f.spread(above, 3),
        },
        {"name": "switchover: order to stand still to VM started", "load": f.load(), "seconds": f.spread(switched, 3)},
        {"name": "switchover: of that, until the master stood still", "seconds": f.spread(stood, 3)},
    ]


class Failed(NamedTuple):
    """Seconds from the decision to a VM that runs, what libvirt took of them, and by step."""

    started: float
    by_libvirt: float
    steps: dict[str, float]


def _failed_over(site: Site, above: list[float]) -> Failed:
    """One failover; appends what the guest's word took longer than after `virsh start`
    alone."""
    spoke = site.until_it_speaks(site.words("failover"))
    past = site.past()
    start = next(step for step in past.steps if step.name == StepName.START_DOMAIN)
    run("virsh", "destroy", site.domain)
    begun = time.time()
    plain = site.until_it_speaks(["virsh", "start", site.domain]) - begun
    above.append(spoke - past.trigger.decided - plain)
    by_libvirt = start.seconds or 0.0
    steps = {step.name: step.seconds or 0.0 for step in past.steps}
    return Failed(start.begun + by_libvirt - past.trigger.decided, by_libvirt, steps)
