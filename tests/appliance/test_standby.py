"""What a failover would wait for is ready before, and what would be in its way is said before."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rha.appliance.standby import Standby
from rha.errors import HostError, VmError
from rha.report import Report
from rha.scenario import Appliance, Disk, Guest, Network, Scenario, Vm
from rha.vm import accelerator
from rha.vm.accelerator import Accelerator, Trial, choose
from rha.vm.guest import outside
from rha.vm.null import NullHost

APPLIANCE = Appliance(address="192.0.2.1:7420", ca="/c", certificate="/d", key="/k")


def scenario(name: str, mode: str = "ha", **words: object) -> Scenario:
    return Scenario(name=name, mode=mode, disk=[Disk(name="d", device="/dev/x")], appliance=APPLIANCE, **words)


class Silent(NullHost):
    """`why`: the reason why it does not answer; empty: it does."""

    why = ""

    def prepare(self) -> None:
        if self.why:
            raise VmError("libvirt does not answer", cause=self.why)


@dataclass
class Site:
    store: Path
    scenarios: list[Scenario]
    vm: Silent = field(default_factory=Silent)
    tried: list[str] = field(default_factory=list)
    has_kvm: bool = True

    def __post_init__(self) -> None:
        self.standby = Standby(self.vm, self.store, lambda: self.scenarios, self.choose)

    def choose(self, wanted: str) -> Accelerator:
        self.tried.append(wanted)
        if wanted == "kvm" and not self.has_kvm:
            raise VmError("kvm runs no guest here", cause="/dev/kvm does not exist")
        return Accelerator("tcg", "")

    def alarms(self, name: str) -> tuple[str, list[str]]:
        mode = next(one.mode for one in self.scenarios if one.name == name)
        report = Report(
            role="appliance", scenario=name, mode=mode, time=0, health="ok", state="consistent", why="", disks=[]
        )
        found = self.standby.add_to(report)
        return found.health, found.alarms


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, [scenario("web"), scenario("mail", "dr")])


def test_a_silent_libvirt_is_known_before_it_is_needed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.vm.why = "connection refused"
    site.standby.look()
    site.standby.look()
    sentence = "a failover would fail now: libvirt does not answer; connection refused"
    assert site.alarms("web") == ("alarm", [sentence])
    assert site.alarms("mail") == ("ok", []), "a person who switches is told by the act, and by the log"
    said = capsys.readouterr().err.splitlines()
    assert said == [f"rha appliance: {name}: {sentence}" for name in ("mail", "web")], "once"
    site.vm.why = ""
    site.standby.look()
    assert site.alarms("web") == ("ok", [])
    assert capsys.readouterr().err.count("a failover would be possible again") == 2


def test_an_accelerator_that_is_demanded_and_missing(site: Site) -> None:
    site.scenarios, site.has_kvm = [scenario("web", vm=Vm(accelerator="kvm")), scenario("mail")], False
    site.standby.look()
    assert site.tried == ["kvm", "auto"]
    assert "kvm runs no guest here" in site.alarms("web")[1][0]
    assert site.alarms("mail")[1] == []


def test_a_guest_that_must_be_adapted_and_cannot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    why = HostError("libguestfs is missing", cause="there is no Python module guestfs")
    monkeypatch.setattr(outside, "why_not", lambda: why)
    must, may = Guest(required=True), Guest()
    left_alone = Vm(guest=must, bus="virtio", network=Network(kind="none"))
    site.scenarios = [
        scenario("web", vm=Vm(guest=must)),
        scenario("mail", vm=Vm(guest=may)),
        scenario("db", vm=left_alone),
    ]
    site.standby.look()
    assert "libguestfs is missing" in site.alarms("web")[1][0]
    assert site.alarms("mail")[1] == site.alarms("db")[1] == []


def test_a_scenario_that_is_gone_is_in_nobodys_way(site: Site) -> None:
    site.vm.why = "connection refused"
    site.standby.look()
    site.scenarios = site.scenarios[:1]
    site.standby.look()
    site.scenarios = [*site.scenarios, scenario("mail")]
    assert site.alarms("mail") == ("ok", [])


def test_it_looks_at_once_and_ends(site: Site) -> None:
    looked = threading.Event()
    site.standby._scenarios = lambda: looked.set() or []  # type: ignore[assignment,func-returns-value]
    site.standby.start()
    assert looked.wait(60)
    site.standby.stop()
    site.standby.join(60)
    assert not site.standby.is_alive()


@pytest.mark.parametrize(
    ("table", "loaded"), [('MoveIp(addresses=["192.0.2.9/24"], interface="lo")', True), ("None", False)]
)
def test_what_a_redirection_needs_is_loaded_for_whom_has_one(tmp_path: Path, table: str, loaded: bool) -> None:
    """In a process of its own: what others have loaded is loaded here."""
    text = f"""
import sys
from pathlib import Path
from rha.redirect import run
from rha.redirect.base import replica_place
from rha.scenario import MoveIp
table = {table}
assert "pyroute2" not in sys.modules
run.prepare([table] if table else [], replica_place("web", Path({str(tmp_path)!r})))
print("pyroute2" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", text], text=True).strip() == str(loaded)
    assert list(tmp_path.iterdir()) == [], "nothing is remembered, as nothing was changed"


def test_two_who_ask_at_once_make_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover that comes while the standby tries takes its answer."""
    begun = list[str]()
    device = tmp_path / "kvm"
    device.touch()

    def trial(name: str) -> Trial:
        begun.append(name)
        time.sleep(0.2)
        return Trial("RPLT\n", 0.2)

    monkeypatch.setattr(accelerator, "try_out", trial)
    threads = [
        threading.Thread(target=choose, kwargs={"cache": tmp_path / "cache.json", "device": device}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun == ["kvm"]
