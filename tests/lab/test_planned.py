"""Engine, appliance, etcd and libvirt: a planned move loses nothing, and a killed appliance ends in one state."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proof.lab import RHA, Engine, Lab, environment, run, wait_for
from rha.control import local
from rha.switch import progress as ledger
from rha.switch.plan import StepName
from rha.vm.libvirt import LibvirtHost
from tests.fence.master import SYSTEMCTL
from tests.lab.test_one_writer import Site, opened
from tests.vm.real import libvirt_host, store  # noqa: F401

pytestmark = pytest.mark.root
UNIT, SECTOR = "writer.service", 1000
# Counts into the page cache of the disk and syncs nothing; takes a moment to stop, as databases do.
WRITER = """#!{python}
import os, signal, sys, time
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
disk = os.open("{disk}", os.O_RDWR)
count = 0
while going:
    count += 1
    os.pwrite(disk, count.to_bytes(8, "little") * 64, {sector} * 512)
    time.sleep(0.001)
time.sleep(1)
open("{log}", "w").write(str(count))
"""


class Planned(Site):
    """Its master has a unit that writes, stops when told, and is not part of the lease."""

    def _engine(self, device: str) -> Engine:
        engine = super()._engine(device)
        held = os.open(device, os.O_RDONLY)  # the kernel writes a device's cache out when the last one closes it
        self.lab.stack.callback(os.close, held)
        self.bin = self.lab.folder / "bin"
        self.bin.mkdir()
        self.counted, self.said = self.lab.folder / "counted", self.lab.folder / "switchover.said"
        writer = WRITER.format(python="/usr/bin/python3", disk=device, sector=SECTOR, log=self.counted)
        for name, text in (("systemctl", SYSTEMCTL), (UNIT, writer)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        engine.variables["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        text = engine.scenario_file.read_text()
        self.ready = socket.socket()
        self.ready.bind(("127.0.0.1", 0))
        ready = f'[vm.ready]\nkind = "tcp"\naddress = "127.0.0.1:{self.ready.getsockname()[1]}"\n'
        engine.scenario_file.write_text(f'{text}{ready}[switch]\nunits = ["{UNIT}"]\nlimit = "30s"\n')
        return engine

    def _end(self) -> None:
        subprocess.run([str(self.bin / "systemctl"), "kill", UNIT], check=True)
        self.ready.close()
        super()._end()

    def start(self) -> None:
        super().start()
        run(self.bin / "systemctl", "start", UNIT)
        wait_for(self.writes, 20)

    def writes(self) -> bool:
        return run(self.bin / "systemctl", "show", UNIT) == "active"

    def rha(self, *words: str) -> subprocess.CompletedProcess[str]:
        variables = environment(self.lab.folder / "run")
        return subprocess.run([*RHA, *words], env=variables, capture_output=True, text=True, timeout=300, check=False)

    def wait_ready(self) -> None:
        """The appliance knows a heartbeat later than the master that this can hand over."""
        wait_for(lambda: self.rha("switchover", self.engine.name, "--dry-run").returncode == 0, 30, self.words)

    def begin(self) -> None:
        """A switchover that will not be answered."""
        self.wait_ready()
        words = [*RHA, "switchover", self.engine.name, "--yes"]
        with self.said.open("wb") as said:
            process = subprocess.Popen(
                words, env=environment(self.lab.folder / "run"), stdout=said, stderr=subprocess.STDOUT
            )
        self.lab.stack.callback(process.wait)

    def past(self) -> ledger.Progress | None:
        return ledger.load(self.lab.appliance.store / self.engine.name)

    def last_step(self) -> str:
        past = self.past()
        return past.steps[-1].name if past and past.steps else ""

    def in_image(self) -> int:
        """The count in the replica's image, by QEMU's own tools."""
        raw = self.lab.folder / "image.raw"
        image = self.lab.appliance.image(self.engine.name, "d0")
        run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image, raw)
        with raw.open("rb") as file:
            file.seek(SECTOR * 512)
            return int.from_bytes(file.read(8), "little")

    def switches(self) -> list[dict[str, Any]]:
        return list(local.call(self.lab.appliance.socket, "switches", scenario=self.engine.name))

    def words(self) -> tuple[object, ...]:
        said = self.said.read_text() if self.said.exists() else ""
        return self.past(), said, self.lab.appliance.log()[-3000:], self.engine.log()[-3000:]


@pytest.fixture
def site(lab: Lab, libvirt_host: LibvirtHost, store: Path, tmp_path: Path) -> Iterator[Planned]:  # noqa: F811
    with opened(Planned, lab, libvirt_host, store, tmp_path) as site:
        yield site


def test_nothing_is_lost_and_two_never_serve(site: Planned) -> None:
    site.start()
    site.ready.listen()
    site.wait_ready()
    shown = site.rha("switchover", site.engine.name, "--dry-run")
    assert f"the master stops {UNIT}, 198.51.100.77/32 and writes out what it holds" in shown.stdout, shown.stderr
    assert site.writes()
    done = site.rha("switchover", site.engine.name, "--yes", "--reason", "new firmware")
    assert done.returncode == 0, (done.stderr, site.words())
    assert (site.writes(), site.serves(), site.substitute()) == (False, False, True)
    assert site.in_image() == int(site.counted.read_text()) > 0
    (switch,) = site.switches()
    assert (switch["kind"], switch["reason"], switch["outcome"]) == ("switchover", "new firmware", "serving")
    assert switch["rpo_seconds"] == 0
    assert f"({switch['reason']}): serving after" in site.rha("history", site.engine.name, "--switches").stdout
    gone = site.rha("discard", site.engine.name, "--yes")
    assert gone.returncode == 0, gone.stderr
    wait_for(lambda: site.writes() and site.serves(), 120, site.words)
    wait_for(lambda: not site.engine.report()["released"], 30, site.words)
    assert not site.substitute()


def test_an_appliance_killed_before_and_behind_the_point_of_no_return(site: Planned) -> None:
    site.start()
    site.begin()
    wait_for(lambda: site.last_step() == StepName.RELEASE, 60, site.words)
    site.lab.appliance.kill()
    site.lab.appliance.start()
    wait_for(lambda: site.past() is None, 60, site.words)
    assert (site.writes(), site.serves(), site.substitute()) == (True, True, False)
    assert site.switches()[-1]["outcome"] == "rolled-back"
    site.engine.wait_ordered()
    site.begin()
    wait_for(lambda: site.last_step() == StepName.WAIT_READY, 120, site.words)
    site.lab.appliance.kill()
    assert (site.writes(), site.serves(), site.substitute()) == (False, False, True)
    site.ready.listen()
    site.lab.appliance.start()
    wait_for(lambda: (past := site.past()) and past.state == ledger.SERVING, 60, site.words)
    assert site.in_image() == int(site.counted.read_text())
    assert site.substitute()
