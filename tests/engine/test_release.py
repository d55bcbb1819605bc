"""A master that stands still and takes its service back: units are real processes, the lease is in a real etcd."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rha.engine.release import Release
from rha.errors import DeviceError, HostError, StateError
from rha.fence import permit
from rha.fence.holder import Holder
from rha.fence.serving import Host
from rha.fence.taking import key_of
from rha.redirect.base import master_place
from rha.scenario import Appliance, Duration, Lease, MoveIp, Scenario, Switch
from rha.systemd import Units
from tests.fence.etcd_server import Server, running
from tests.fence.master import STUBBORN, SYSTEMCTL
from tests.redirect.wires import Segment

PLAIN = "#!/bin/sh\nexec sleep 600\n"
NAMES = ("app.service", "db.service", "stubborn.service")
TO = "appliance test"


class Disks:
    """What the engine says. `broken`: the disks cannot be drained."""

    def __init__(self) -> None:
        self.broken = False
        self.running: list[str] = []
        self.units: Units

    def must_be_ordered(self) -> None:
        pass

    def settle(self) -> list[str]:
        self.running = [name for name in NAMES if not self.units.is_off(name)]
        if self.broken:
            raise DeviceError("the disk is never idle")
        return ["drained"]

    def position(self) -> tuple[float, int]:
        return 1000.0, 4096


class Site:
    """A host's service manager with three units, and one master on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.disks = folder, Disks()
        for name, text in zip(("systemctl", *NAMES), (SYSTEMCTL, PLAIN, PLAIN, STUBBORN), strict=True):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.host = Host(systemctl=(str(folder / "systemctl"),))
        self.units = self.disks.units = Units(self.host.systemctl)
        self.said: list[str] = []
        self.holders: list[Holder] = []

    def master(
        self, *units: str, lease: Lease | None = None, after: str = "stay", redirect: Sequence[MoveIp] = ()
    ) -> Release:
        """An engine's part of it, as a newly started engine has it."""
        switch = Switch(units=list(units), limit=Duration(1), after=after)  # type: ignore[arg-type]
        ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
        scenario = Scenario(name="web", disk=[], appliance=ends, switch=switch, lease=lease, redirect=[*redirect])
        run = self.folder / "run"
        holder = Holder(scenario, lease, run, self.said.append, self.host) if lease else None
        release = Release(scenario, run, holder, master_place("web", self.folder), self.said.append, self.host)
        if holder:
            holder.start()
            self.holders.append(holder)
        return release

    def start(self, *units: str) -> None:
        for unit in units:
            self.units.start(unit, 10)

    def running(self) -> set[str]:
        return {name for name in NAMES if not self.units.is_off(name)}

    def close(self) -> None:
        for holder in self.holders:
            holder.stop()
        for path in (self.folder / "run").glob("*.standing"):
            os.kill(permit.standing(path).process, signal.SIGKILL)
        for name in NAMES:
            Units(self.host.systemctl)._order("kill", name)


pytestmark = pytest.mark.root


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_units_stop_in_order_before_the_disks_settle_and_start_again_the_other_way_round(site: Site) -> None:
    site.start("db.service", "app.service")
    master = site.master("app.service", "db.service", "stubborn.service")
    assert master.release(site.disks)[:2] == (1000.0, 4096)
    assert site.disks.running == [], "everything had stopped before"
    assert [line.split()[0] for line in site.said] == ["app.service", "db.service"]
    site.said.clear()
    assert master.resume() == "the master serves again"
    assert [line.split()[0] for line in site.said[:2]] == ["db.service", "app.service"]
    assert site.running() == {"app.service", "db.service"}, "what did not run before does not run now"
    assert master.why() == ""


def test_a_unit_that_does_not_stop_is_a_refusal_and_the_others_run_again(site: Site) -> None:
    site.start(*NAMES)
    master = site.master("app.service", "stubborn.service", "db.service")
    with pytest.raises(HostError, match=r"stubborn\.service does not stop"):
        master.release(site.disks)
    assert site.running() == set(NAMES)
    assert master.why() == ""


def test_disks_that_do_not_settle_are_a_refusal_too(site: Site) -> None:
    site.start("app.service")
    site.disks.broken = True
    with pytest.raises(DeviceError):
        site.master("app.service").release(site.disks)
    assert site.running() == {"app.service"}


def test_twice_is_as_once_and_a_restarted_engine_knows_it(site: Site) -> None:
    site.start("app.service")
    first = site.master("app.service")
    first.release(site.disks)
    assert first.release(site.disks)[:2] == (1000.0, 4096)
    again = site.master("app.service")
    assert again.why().startswith("released for a switchover since ")
    assert again.resume() == "the master serves again"
    assert again.resume() == "the master serves"
    assert site.running() == {"app.service"}


def test_a_note_of_another_boot_is_worth_nothing(site: Site) -> None:
    site.start("app.service")
    site.master("app.service").release(site.disks)
    note = site.folder / "run/web.released"
    note.write_text(note.read_text().replace(permit.boot(), "00000000-earlier-boot"))
    assert site.master("app.service").why() == ""


def test_a_scenario_that_stops_nothing_is_refused(site: Site) -> None:
    with pytest.raises(StateError, match="cannot be made to stand still"):
        site.master().release(site.disks)


def test_a_misspelt_unit_is_refused_before_anything_stops(site: Site) -> None:
    """It would pass for one that is off, and the service would go on writing."""
    site.start("app.service")
    with pytest.raises(HostError) as caught:
        site.master("app.service", "ap.service").release(site.disks)
    assert (caught.value.what, caught.value.cause) == ("ap.service is no unit of this host", "systemd says: not-found")
    assert site.running() == {"app.service"}
    assert site.said == []


def test_without_an_appliance_the_service_comes_back_unless_it_was_handed_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rha.engine.release.RESUME_SECONDS", 0.0)
    site.start("app.service")
    master = site.master("app.service")
    master.release(site.disks)
    master.tend(connected=True)
    assert site.running() == set()
    master.tend(connected=False)
    wait(lambda: not master.why())
    assert site.running() == {"app.service"}
    with pytest.raises(StateError, match="serves"):
        master.hand_over(TO)
    master.release(site.disks)
    assert master.hand_over(TO).startswith(f"handed over to {TO}")
    master.tend(connected=False)
    assert not any(thread.name == "resume" for thread in threading.enumerate())
    assert site.running() == set()


def test_it_is_powered_off_only_when_handed_over_and_only_if_its_scenario_says_so(site: Site) -> None:
    site.start("app.service")
    stays, goes = site.master("app.service"), site.master("app.service", after="poweroff")
    for master, why in ((stays, "is not to be powered off"), (goes, "its service is not handed over")):
        master.release(site.disks)
        with pytest.raises(StateError) as caught:
            master.power_off()
        assert why in f"{caught.value.what}, {caught.value.cause}"
    assert not (site.folder / "units/poweroff").exists()
    goes.hand_over(TO)
    goes.power_off()
    assert (site.folder / "units/poweroff").exists()


def test_what_clients_know_it_by_is_given_up_only_when_it_is_handed_over(site: Site) -> None:
    segment = Segment()
    host = segment.host("192.0.2.1/24", "192.0.2.10/24")
    site.start("app.service")
    try:
        table = MoveIp(addresses=["192.0.2.10/24"], interface="eth0")
        master = site.master("app.service", redirect=[table])
        host.call(lambda: master.release(site.disks))
        assert "192.0.2.10/24" in host.addresses()
        host.call(lambda: master.hand_over(TO))
        assert "192.0.2.10/24" not in host.addresses()
        thief = segment.host("192.0.2.10/24")
        with pytest.raises(HostError, match="does not serve as before") as caught:
            host.call(master.resume)
        assert "192.0.2.10 is still served by another host" in caught.value.cause
        assert site.running() == {"app.service"}, "what fails keeps nothing else back"
        segment.unplug(thief)
        host.call(master.resume)
        assert "192.0.2.10/24" in host.addresses()
    finally:
        segment.close()


# With a lease -------------------------------------------------------------------------------------------------


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "etcd") as server:
        yield server


def wait(is_so: Callable[[], bool], seconds: float = 30) -> None:
    until = threading.Event()
    for _ in range(int(seconds * 20)):
        if is_so():
            return
        until.wait(0.05)
    raise AssertionError("it never came to that")


def test_a_lease_is_kept_while_released_and_never_nobodys(site: Site, etcd: Server) -> None:
    lease = Lease(endpoints=[etcd.url], units=["db.service"], ttl=Duration(6), stop_limit=Duration(1))
    master = site.master("app.service", lease=lease)
    wait(lambda: site.running() == {"db.service"})
    site.start("app.service")
    key = key_of("web")
    master.release(site.disks)
    assert site.disks.running == []
    held = etcd.client().read(key)
    assert held is not None
    assert held.value.startswith("master ")
    threading.Event().wait(3)  # it renews the lease meanwhile
    assert site.running() == set()
    master.hand_over(TO)
    master.hand_over(TO)
    held = etcd.client().read(key)
    assert held is not None
    assert (held.value, held.lease) == (TO, 0)
    with pytest.raises(StateError, match="another holds the lease"):
        master.resume()
    assert site.running() == set()
    etcd.client().delete_if(key, revision=held.mod_revision)
    assert master.resume() == "the master serves again"
    assert site.running() == {"app.service", "db.service"}


def test_a_restarted_engine_does_not_serve_by_its_lease_while_released(site: Site, etcd: Server) -> None:
    lease = Lease(endpoints=[etcd.url], units=["db.service"], ttl=Duration(6), stop_limit=Duration(1))
    first = site.master(lease=lease)
    wait(lambda: site.running() == {"db.service"})
    first.release(site.disks)
    site.holders[0].stop()
    again = site.master(lease=lease)
    wait(lambda: site.holders[1].report().is_held)
    threading.Event().wait(1)
    assert site.running() == set()
    again.resume()
    assert site.running() == {"db.service"}
