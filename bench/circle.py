"""A master that is lost and comes home, or hands over and takes its service back: time after time, with one appliance
process. Master and appliance are hosts on one segment, the substitute is a real VM whose guest writes all the time.

The guest is one boot sector: what a switch costs is not hidden by what a boot costs. Its bus is named, so nobody looks
into it for drivers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import census
from bench.census import Census
from bench.lab import remove_domain
from proof.lab import RHA, Engine, Lab, environment, run, wait_for
from rha import pki
from rha.vm.base import domain_name
from tests.fence.master import SYSTEMCTL
from tests.redirect.wires import Segment
from tests.switch.writing_guest import BEGUN, PAGE_BYTES, boot_sector

DISK_BYTES = 32 << 20
WINDOW = "1min"  # of points: what it keeps has reached its size after a few rounds
UNIT, SERVED = "app.service", "198.51.100.77/24"
MASTER, APPLIANCE = "198.51.100.1", "198.51.100.2"
COMMAND_SECONDS = 600  # for one command of a loaded machine
_SCENARIO = f"""[vm]
memory = "64MiB"
accelerator = "tcg"
bus = "virtio"
[switch]
units = ["{UNIT}"]
limit = "60s"
[[redirect]]
type = "ip"
addresses = ["{SERVED}"]
interface = "eth0"
"""


class Circle:
    """All that it needs ends with `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        self._segment = Segment()
        stack.callback(self._segment.close)
        self.master = self._segment.host(f"{MASTER}/24", SERVED)
        self.replica = self._segment.host(f"{APPLIANCE}/24")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        self.store = Path(tempfile.mkdtemp(prefix="rha-bench-", dir="/var/lib"))  # QEMU's user reaches it
        stack.callback(shutil.rmtree, self.store)
        self.lab = Lab(folder, Path("/dev/shm"), stack, settings=f'window = "{WINDOW}"\n')
        (folder / "tmp").mkdir()
        self._prepare_appliance()
        self.disk = self.lab.disk(DISK_BYTES)
        with open(self.disk.path, "r+b") as device:
            device.write(boot_sector(DISK_BYTES, 8))
        self.engine = self._engine()
        self.domain = domain_name(self.engine.name)
        stack.callback(self._end)
        self._written = 0

    def _prepare_appliance(self) -> None:
        appliance, folder = self.lab.appliance, self.lab.folder
        pair = pki.issue_appliance(self.lab.pki, "circle", [APPLIANCE])
        config = folder / "appliance.toml"
        text = config.read_text().replace(str(folder / "store"), str(self.store)).replace("127.0.0.1", APPLIANCE)
        lines = [line for line in text.splitlines() if not line.startswith(("certificate", "key"))]
        config.write_text("\n".join([f'certificate = "{pair.certificate}"', f'key = "{pair.key}"', *lines, ""]))
        appliance.store, appliance.wrap = self.store, self.replica.prefix
        appliance.variables["TMPDIR"] = str(folder / "tmp")

    def _engine(self) -> Engine:
        folder = self.lab.folder
        for name, text in (("systemctl", SYSTEMCTL), (UNIT, "#!/bin/sh\nexec sleep 86400\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        engine = self.lab.engine([self.disk.path], name=f"circle-{os.getpid()}", more=_SCENARIO)
        text = engine.scenario_file.read_text().replace("127.0.0.1", APPLIANCE)
        engine.scenario_file.write_text(f'kind = "file-server"\n{text}')
        engine.wrap = self.master.prefix
        engine.variables |= {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder / "tmp")}
        return engine

    def _end(self) -> None:
        self.lab.appliance.kill()
        remove_domain(self.domain)
        run(self.lab.folder / "systemctl", "kill", UNIT)

    # The rounds -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A protected master that serves."""
        self.lab.appliance.start()
        run(self.lab.folder / "systemctl", "start", UNIT)
        self._protect()

    def _protect(self) -> None:
        self.engine.start()
        self._wait_protected()

    def _wait_protected(self) -> None:
        """It has written something, and all of it is in the images."""
        with open(self.disk.path, "r+b") as device:
            device.seek(PAGE_BYTES)
            self._written += 1
            device.write(self._written.to_bytes(8, "little") * (PAGE_BYTES // 8))
        self.disk.sync()
        self.engine.wait_ordered(120)
        self.lab.appliance.wait_applied(self.engine.name)

    def lost_and_home(self) -> None:
        """The power fails, a substitute takes over, the repaired master gets its disk back and is protected again."""
        self.engine.kill()
        wait_for(lambda: not self.lab.appliance.report(self.engine.name)["connected"], 60)
        self._segment.unplug(self.master)
        self._see_guest(lambda: self.rha("failover"))
        self._segment.plug(self.master)
        self._switch_back()
        self._protect()

    def _switch_back(self) -> None:
        words = [*self.master.prefix, *RHA, "receive", "--scenario", str(self.engine.scenario_file), "--yes"]
        with subprocess.Popen(words, env=self._environment, stdout=subprocess.PIPE, text=True) as receiver:
            try:
                report, name = self.lab.appliance.report, self.engine.name
                wait_for(lambda: report(name).get("back"), 60, self.lab.appliance.log)
                self.rha("switchback")
                assert "may boot" in receiver.communicate(timeout=COMMAND_SECONDS)[0]
            finally:
                receiver.kill()

    def away_and_back(self) -> None:
        """The master hands over, the substitute is discarded, the master serves as before; its engine runs on."""
        dry = [*RHA, "switchover", self.engine.name, "--dry-run"]
        wait_for(
            lambda: subprocess.run(dry, env=self._environment, capture_output=True, check=False).returncode == 0, 60
        )
        self._see_guest(lambda: self.rha("switchover"))
        self.rha("discard", "--no-keep")
        wait_for(lambda: not self.engine.report()["released"] and SERVED in self.master.addresses(), 120)
        self._wait_protected()

    def _see_guest(self, act: Callable[[], object]) -> None:
        """The guest begins to write once more."""
        before = self._begun()
        act()
        wait_for(lambda: self._begun() > before, 60, self.lab.appliance.log)

    def _begun(self) -> int:
        console = self.store / self.engine.name / "console.log"
        return console.read_text(errors="replace").count(BEGUN) if console.exists() else 0

    @property
    def _environment(self) -> dict[str, str]:
        return environment(self.lab.folder / "run")

    def rha(self, verb: str, *more: str) -> None:
        done = subprocess.run(
            [*RHA, verb, self.engine.name, "--yes", *more],
            env=self._environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}{self.lab.appliance.log()[-3000:]}"

    # What is there --------------------------------------------------------------------------------------------

    def pids(self) -> dict[str, int]:
        """Of the two daemons."""
        daemons = {"appliance": self.lab.appliance, "engine": self.engine}
        return {name: daemon.process.pid for name, daemon in daemons.items() if daemon.process}

    def look(self) -> Census:
        """Everything that is its own, counted."""
        found: dict[str, Counter[str]] = {}
        for name, pid in self.pids().items():
            found |= census.of_process(name, pid)
        for name, host in (("master", self.master), ("appliance", self.replica)):
            found |= census.of_network(name, host)
        folders = [self.store, self.lab.folder, self.disk.file]
        found |= census.of_scenario(self.engine.name, folders)
        return found
