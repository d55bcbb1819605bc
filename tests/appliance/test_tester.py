"""Test boots of a real replica: its points as files for a VM host that runs nothing, by hand and by the calendar."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from stream import WRITE, record

from rha.appliance.replica import Replica
from rha.appliance.tester import Tester, concerns
from rha.errors import RhaError
from rha.report import Tested
from rha.scenario import BootTest, Guest, Vm
from rha.switch import bootreport, testboot
from rha.switch.bootplan import domain_of_test
from rha.vm.base import DomainState, VmSpec
from rha.wire.frames import FrameType
from tests.switch.boot_site import TalkingHost, console_check

pytestmark = pytest.mark.root
DOMAIN = domain_of_test("web1")


class WritingHost(TalkingHost):
    """Its guest reads what its disk begins with, and overwrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.read = b""

    def define(self, spec: VmSpec) -> None:
        with spec.backing[0].open("rb", buffering=0) as disk:
            self.read = disk.read(4096)
        write = ["qemu-io", "-f", "qcow2", "-c", "write -P 255 0 4096", str(spec.disks[0])]
        subprocess.run(write, check=True, capture_output=True)
        super().define(spec)


class Site:
    def __init__(self, replica: Replica, master: Master, vm: WritingHost) -> None:
        self.replica, self.master, self.vm = replica, master, vm
        self.slots = threading.Semaphore(1)
        self.tester = Tester(replica, replica.folder.parent, vm, self.slots, replica.folder)

    def wants(self, **words: object) -> None:
        """The scenario's test, as the master would have sent it."""
        scenario = self.replica.scenario
        assert scenario is not None
        test = BootTest(**{"check": [console_check()], **words})  # type: ignore[arg-type]
        vm = Vm(firmware="bios", accelerator="tcg", guest=Guest(adapt="no"))
        self.replica._intake.scenario = msgspec.structs.replace(scenario, vm=vm, test=test)

    def write(self, data: bytes) -> None:
        self.master.data(FrameType.RECORDS, record(WRITE, 0, 0, len(data), data))
        self.master.settle()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(testboot, "LAG_SECONDS", 0.1)
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(b"1" * DISK_BYTES)
    wait_for(lambda: bool(replica._images.history.intervals))
    site = Site(replica, master, WritingHost())
    site.wants()
    yield site
    replica.close()


def test_the_guest_sees_the_point_and_the_replica_does_not_see_the_guest(site: Site) -> None:
    first = site.replica.applied_lsn
    site.write(b"2" * 4096)
    for at, content in (("now", b"2"), (str(first), b"1")):
        report = site.tester.test("eve", "why not", at, keep=False)
        assert (report.outcome, report.left) == ("passed", "")
        assert site.vm.read == content * 4096
        assert site.replica.read_image(0, 0, 4096) == b"2" * 4096
        assert site.replica.points.list().open == []
    assert [report.at for report in site.tester.reports()] == ["now", str(first)]


def test_replication_goes_on_while_a_test_is_kept(site: Site) -> None:
    report = site.tester.test("eve", "", "", keep=True)
    assert report.kept
    site.write(b"3" * 4096)
    assert site.replica.read_image(0, 0, 4096) == b"3" * 4096
    with pytest.raises(RhaError, match="is at work"):
        site.tester.test("bob", "", "", keep=False)
    assert site.tester.end("eve").outcome == "passed"
    with pytest.raises(RhaError, match="no test of web1 runs"):
        site.tester.end("eve")
    assert site.vm.state(DOMAIN) == DomainState.ABSENT


def test_one_at_a_time_on_the_whole_appliance(site: Site) -> None:
    site.slots.acquire()
    with pytest.raises(RhaError, match="another test is at work on this appliance"):
        site.tester.test("eve", "", "", keep=False)
    site.slots.release()
    assert site.tester.test("eve", "", "", keep=False).outcome == "passed"


def test_a_point_that_is_none(site: Site) -> None:
    with pytest.raises(RhaError, match="'yesterday' is no point"):
        site.tester.test("eve", "", "yesterday", keep=False)
    assert site.tester.reports() == []


def test_a_failed_test_is_an_alarm_until_one_passes(site: Site) -> None:
    site.vm.says = "grub rescue>"
    site.wants(check=[console_check("login:", 0.1)])
    report = site.tester.test("eve", "", "", keep=False)
    assert report.outcome == "failed"
    assert site.tester.add_to(site.replica.report()).health == "alarm"
    later = bootreport.make_folder(site.replica.folder, report.ended + 60).name
    bootreport.write(site.replica.folder, msgspec.structs.replace(report, folder=later, outcome="ended"))
    restarted = Tester(site.replica, site.replica.folder, site.vm, site.slots, site.replica.folder)
    assert restarted.add_to(site.replica.report()).health == "alarm", "one that was ended takes nothing back"


def settled(site: Site) -> Callable[[], bool]:
    return lambda: site.tester._boot is None


def test_due_by_the_calendar_once(site: Site) -> None:
    site.wants(days="mon-sun", begin="00:00", end="24:00")
    assert site.tester.add_to(site.replica.report()).test is not None
    for _ in range(3):
        site.tester._look()
        wait_for(settled(site))
    (report,) = site.tester.reports()
    assert (report.by, report.reason) == ("schedule", "due: mon-sun 00:00-24:00")
    tested = site.tester.add_to(site.replica.report()).test
    assert tested is not None
    assert (tested.outcome, tested.missed) == ("passed", "")
    assert tested.next is not None


def test_a_due_test_that_is_refused_is_tried_again_later(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.wants(days="mon-sun", begin="00:00", end="24:00")
    site.vm.free = 0
    site.tester._look()
    site.tester._look()
    assert capfd.readouterr().err.count("the test that is due is refused: error: not enough memory") == 1
    assert site.tester.reports() == []
    site.vm.free, site.tester._retry_at = 1 << 40, 0.0
    site.tester._look()
    wait_for(settled(site))
    assert len(site.tester.reports()) == 1


@pytest.mark.parametrize("end", ["retire", "close"])
def test_who_needs_the_images_ends_the_test_first(site: Site, end: str, capfd: pytest.CaptureFixture[str]) -> None:
    site.tester.test("eve", "", "", keep=True)
    getattr(site.replica, end)()
    assert site.vm.state(DOMAIN) == DomainState.ABSENT
    assert list((site.replica.folder / "points").glob("*")) == []
    assert "the test that runs is ended: " in capfd.readouterr().err
    if end == "retire":
        with pytest.raises(RhaError, match="cannot be tested now"):
            site.tester.test("eve", "", "", keep=False)


def test_what_a_person_should_know() -> None:
    assert concerns(None) == concerns(Tested(outcome="passed")) == concerns(Tested(outcome="ended", why="by eve")) == []
    assert concerns(Tested(outcome="failed", why="no login")) == [("the last test boot failed: no login", "alarm")]
    assert [health for _, health in concerns(Tested(outcome="cut off", missed="none", left="x"))] == ["warning"] * 3
