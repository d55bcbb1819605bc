"""Engine, appliance, etcd and libvirt together: whatever happens to the master, two never serve at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from proof.lab import RHA, Engine, Lab, environment, wait_for
from proof.proxy import Proxy
from rha.redirect import links
from rha.vm.base import DomainState, domain_name
from rha.vm.libvirt import LibvirtHost
from tests.fence.etcd_server import Server, running
from tests.vm.real import libvirt_host, store  # noqa: F401
from tests.vm.sectors import printing_disk

pytestmark = pytest.mark.root
ADDRESS = "198.51.100.77/32"
TTL = 6
S = TypeVar("S")


class Site:
    """A master with a lease, and its appliance. Its service is a TCP port and an address of a card of its own."""

    def __init__(self, lab: Lab, etcd: Server, libvirt: LibvirtHost, memory: Path) -> None:
        self.lab, self.libvirt, self.etcd = lab, libvirt, etcd
        self.service = socket.create_server(("127.0.0.1", 0))
        self.port = self.service.getsockname()[1]
        self.card = f"rha{os.getpid() % 100000}"
        peer = f"{self.card}p"
        subprocess.run(["ip", "link", "add", self.card, "type", "veth", "peer", "name", peer], check=True)
        lab.stack.callback(subprocess.run, ["ip", "link", "delete", self.card], check=True)
        for card in (self.card, peer):
            subprocess.run(["ip", "link", "set", card, "up"], check=True)
        lab.stack.callback(lambda: self.service.close())
        self.proxy = lab.stack.enter_context(Proxy(lab.port))
        disk = lab.disk(1 << 20)
        with open(disk.path, "wb") as device:
            device.write(printing_disk(memory / "boot.raw", b"it serves\r\n").read_bytes())
        self.engine = self._engine(disk.path)
        self.domain = domain_name(self.engine.name)
        lab.stack.callback(self._end)

    def _engine(self, device: str) -> Engine:
        more = (
            f'[[check]]\nkind = "tcp"\naddress = "127.0.0.1:{self.port}"\nattempts = 1\ntimeout = "1s"\n'
            f'[watch]\ncalm = "0s"\n[lease]\nendpoints = ["{self.etcd.url}"]\naddresses = ["{ADDRESS}"]\n'
            f'interface = "{self.card}"\nttl = "{TTL}s"\nstop_limit = "500ms"\n'
            '[vm]\nmemory = "64MiB"\nbus = "virtio"\naccelerator = "tcg"\n'
        )
        engine = self.lab.engine([device], port=self.proxy.port, link='lost_after = "1s"\n', more=more)
        engine.scenario_file.write_text('mode = "ha"\n' + engine.scenario_file.read_text())
        return engine

    def _end(self) -> None:
        """The domain, the sentry and what it serves by. First the appliance, which would fail over once more."""
        self.lab.appliance.kill()
        self.libvirt.destroy(self.domain)
        self.libvirt.undefine(self.domain)
        self.engine.kill()
        wait_for(lambda: not self.serves(), TTL + 3, patience=1)

    def start(self) -> None:
        self.lab.appliance.start()
        self.engine.start()
        self.engine.wait_ordered()
        self.lab.appliance.wait_applied(self.engine.name)
        wait_for(self.serves, 20, self.engine.log)

    def serves(self) -> bool:
        """The master."""
        return any(held.address == ADDRESS and held.card == self.card for held in links.held())

    def substitute(self) -> bool:
        return self.libvirt.state(self.domain) == DomainState.RUNNING

    def lose_service(self) -> None:
        """From now on nobody answers the check."""
        self.service.close()

    def mend_service(self) -> None:
        """It is answered again; else what is discarded would be failed over to at once: nothing is calm here."""
        self.service = socket.create_server(("127.0.0.1", self.port))

    def appliance(self) -> str:
        report = self.lab.appliance.report(self.engine.name)
        return " ".join([str(report.get("why")), *report.get("alarms", [])])


@contextlib.contextmanager
def opened(
    kind: Callable[[Lab, Server, LibvirtHost, Path], S], lab: Lab, libvirt: LibvirtHost, folder: Path, memory: Path
) -> Iterator[S]:
    """A site whose images lie where the VM user can reach them."""
    config = lab.folder / "appliance.toml"
    config.write_text(config.read_text().replace(str(lab.folder / "store"), str(folder)))
    lab.appliance.store = folder
    with running(memory / "etcd") as etcd:
        yield kind(lab, etcd, libvirt, memory)
        lab.stack.close()


@pytest.fixture
def site(lab: Lab, libvirt_host: LibvirtHost, store: Path, tmp_path: Path) -> Iterator[Site]:  # noqa: F811
    with opened(Site, lab, libvirt_host, store, tmp_path) as site:
        yield site


def assert_never_both(site: Site, seconds: float) -> bool:
    """Watches until the substitute runs. True: it does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # In this order: what the master has given up before the second look cannot be held against the substitute.
        runs = site.substitute()
        assert not (runs and site.serves()), "two serve at once"
        if runs:
            return True
        time.sleep(0.02)
    return False


def test_a_master_that_hangs_has_stopped_before_its_substitute_starts(site: Site) -> None:
    site.start()
    assert site.engine.process is not None
    site.engine.process.send_signal(signal.SIGSTOP)
    site.lose_service()
    assert assert_never_both(site, 60), (site.appliance(), site.lab.appliance.log()[-3000:])
    wait_for(lambda: "it serves" in site.libvirt.console(site.domain), 30)
    site.engine.process.send_signal(signal.SIGCONT)
    time.sleep(2 * TTL)
    assert not site.serves(), "the master came back and serves beside its substitute"
    assert "appliance" in str(site.engine.report()["lease"]["owner"])
    site.mend_service()
    done = subprocess.run(
        [*RHA, "discard", site.engine.name, "--yes"], env=environment(site.lab.folder / "run"), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not site.substitute()
    wait_for(site.serves, 60, site.engine.log)


def test_a_split_between_them_moves_nothing_while_the_master_renews_its_lease(site: Site) -> None:
    """The appliance sees neither heartbeat nor service; the master is alive all the same, and has its lease."""
    site.start()
    site.proxy.weather.held |= {"up", "down"}
    site.lose_service()
    wait_for(lambda: "keeps the lease of" in site.appliance(), 60, lambda: (site.appliance(), site.lab.appliance.log()))
    assert site.serves()
    assert not site.substitute()
    assert "it is alive, and it serves" in site.appliance()
    site.proxy.weather.held.clear()
    wait_for(lambda: site.engine.report()["connected"], 60, site.engine.report)
    assert site.serves()


def test_without_etcd_nobody_serves(site: Site) -> None:
    site.start()
    site.etcd.pause()
    wait_for(lambda: not site.serves(), TTL + 2, site.engine.log, patience=1)
    wait_for(lambda: "the lease could not be renewed" in str(site.engine.report()["alarms"]), 5, site.engine.report)
    assert not site.substitute()
    site.etcd.resume()
    wait_for(site.serves, 20, site.engine.log)
