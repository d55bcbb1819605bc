"""Test boots with everything real: engine, appliance, libvirt. Replication goes on, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from proof.lab import MIB, RHA, Lab, environment, wait_for
from rha.vm.base import DomainState
from rha.vm.libvirt import LibvirtHost
from tests.vm.png import read_png
from tests.vm.real import libvirt_host, store  # noqa: F401
from tests.vm.sectors import WRITTEN_SECTOR, writing_disk

pytestmark = pytest.mark.root

TEST = """
[vm]
memory = "64MiB"
accelerator = "tcg"
[vm.guest]
adapt = "no"
[test]
keep = 2
[[test.check]]
kind = "console"
address = "{pattern}"
within = "{within}"
"""


class Site:
    """A protected disk that boots, whose guest writes to it, and its appliance."""

    def __init__(self, lab: Lab, libvirt: LibvirtHost, memory: Path, pattern: str, within: str) -> None:
        self.lab, self.libvirt = lab, libvirt
        self.disk = lab.disk(16 * MIB)
        with open(self.disk.path, "wb") as device:
            device.write(writing_disk(memory / "boot.raw", b"it serves\r\n").read_bytes())
        self.engine = lab.engine([self.disk.path], more=TEST.format(pattern=pattern, within=within))
        self.name = self.engine.name
        self.domain, self.folder = f"rha-{self.name}.test", lab.appliance.store / self.name
        lab.stack.callback(self._end)
        lab.appliance.start()
        self.engine.start()
        self.engine.wait_ordered()
        lab.appliance.wait_applied(self.name)
        wait_for(lambda: lab.appliance.report(self.name)["window"], 60, lab.appliance.log)  # there are points

    def _end(self) -> None:
        for domain in (self.domain, f"rha-{self.name}"):
            self.libvirt.destroy(domain)
            self.libvirt.undefine(domain)

    def rha(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RHA, *words], env=environment(self.lab.folder / "run"), capture_output=True, text=True, timeout=200,
            check=False,
        )  # fmt: skip

    def test(self, *words: str) -> dict[str, Any]:
        done = self.rha("test", self.name, "--json", *words)
        assert done.returncode in (0, 1), (done.stderr, self.lab.appliance.log()[-3000:])
        return dict(json.loads(done.stdout))

    @contextmanager
    def test_at_work(self) -> Iterator[subprocess.Popen[bytes]]:
        """A test whose guest runs."""
        with subprocess.Popen(
            [*RHA, "test", self.name], env=environment(self.lab.folder / "run"), stdout=subprocess.DEVNULL
        ) as process:
            try:
                wait_for(lambda: self.libvirt.state(self.domain) == DomainState.RUNNING, 60, self.lab.appliance.log)
                yield process
            finally:
                process.kill()

    def reports(self) -> list[dict[str, Any]]:
        return list(json.loads(self.rha("tests", self.name, "--json").stdout))

    def why_not_clean(self) -> str:
        """What is left of a test, asked of libvirt, the file system and the kernel; empty: nothing."""
        if self.libvirt.state(self.domain) != DomainState.ABSENT:
            return "the domain"
        if (self.folder / "test.json").exists() or list((self.folder / "points").glob("*")):
            return "files"
        if str(self.folder / "points") in Path("/proc/mounts").read_text():
            return "mounts"
        return "processes" if any(str(self.folder / "points").encode() in words for words in command_lines()) else ""


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            yield path.read_bytes()


@pytest.fixture
def make_site(lab: Lab, libvirt_host: LibvirtHost, store: Path, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    config = lab.folder / "appliance.toml"
    config.write_text(config.read_text().replace(str(lab.folder / "store"), str(store)))
    lab.appliance.store = store
    with ExitStack() as stack:
        stack.callback(lab.stack.close)
        yield lambda pattern="it ser(v)es", within="60s": Site(lab, libvirt_host, tmp_path, pattern, within)


class Writer(threading.Thread):
    """Writes to the second half of a disk until it is stopped."""

    def __init__(self, device: str) -> None:
        super().__init__(daemon=True)
        self.device, self.written, self._stop_it = device, 0, threading.Event()

    def run(self) -> None:
        with open(self.device, "r+b", buffering=0) as file:
            while not self._stop_it.wait(0.02):
                file.seek(8 * MIB + (self.written % 1024) * 4096)
                file.write(os.urandom(4096))
                os.fdatasync(file.fileno())
                self.written += 4096

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def test_a_point_boots_and_is_thrown_away_while_replication_goes_on(make_site: Any) -> None:
    site = make_site()
    writer = Writer(site.disk.path)
    writer.start()
    try:
        report = site.test("--reason", "the demonstration")
    finally:
        writer.stop()
    assert (report["outcome"], report["reason"]) == ("passed", "the demonstration"), json.dumps(report)
    assert site.why_not_clean() == ""
    lag = report["lag"]
    assert list(lag) == ["before", "during", "after"]
    applied = lag["during"]["last_lsn"] - lag["during"]["first_lsn"]
    assert applied > 10 * 4096, "replication stood still"
    assert lag["during"]["seconds"] < 10
    folder = site.folder / "tests" / report["folder"]
    assert (folder / "console.log").read_text().endswith("it serves\n"), "the guest could not write to its disk"
    assert read_png((folder / report["screen"]).read_bytes())[:2] == (720, 400)
    assert "1 of 1 checks answered" in (folder / "report.txt").read_text()
    assert "test        passed" in site.rha("status").stdout
    site.lab.assert_equal(site.engine, [site.disk])
    with open(site.disk.file, "rb") as file:
        file.seek(512 * WRITTEN_SECTOR)
        assert file.read(512) == bytes(512), "what the guest wrote is nowhere else"


def test_a_killed_appliance_clears_up_when_it_is_back(make_site: Any) -> None:
    site = make_site(pattern="never said", within="10min")
    with site.test_at_work():
        assert site.rha("test", site.name).returncode == 9  # one at a time
        site.lab.appliance.kill()
        assert site.why_not_clean() == "the domain"
        site.lab.appliance.start()
        wait_for(lambda: not site.why_not_clean(), 60, lambda: (site.why_not_clean(), site.lab.appliance.log()[-3000:]))
    (report,) = site.reports()
    assert report["outcome"] == "cut off"
    assert report["why"].startswith("the appliance ended in its middle: ask the guest")
    site.engine.wait_ordered()
    site.lab.assert_equal(site.engine, [site.disk])


def test_a_failover_ends_the_test_first(make_site: Any) -> None:
    site = make_site(pattern="never said", within="10min")
    with site.test_at_work():
        done = site.rha("failover", site.name, "--yes", "--force")
        assert done.returncode == 0, (done.stderr, site.lab.appliance.log()[-3000:])
    assert site.why_not_clean() == ""
    assert site.libvirt.state(f"rha-{site.name}") == DomainState.RUNNING
    log = site.lab.appliance.log()
    assert log.index("the test that runs is ended: a substitute is to take over") < log.index("apply-spool")
    (report,) = site.reports()
    assert (report["outcome"], report["why"]) == ("ended", "a substitute is to take over")
    refused = site.rha("test", site.name)
    assert (refused.returncode, "cannot be tested now" in refused.stderr) == (9, True)
