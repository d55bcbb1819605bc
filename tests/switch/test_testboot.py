"""A whole test boot with a VM host that runs nothing: outcomes, reports, clearing up, whatever comes in between."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rha.errors import StateError, VmError
from rha.scenario import BootTest, Vm
from rha.switch import bootreport, testboot
from rha.switch.bootplan import BootStep, domain_of_test
from rha.switch.bootreport import BootReport
from rha.switch.progress import trigger
from rha.switch.runner import Effect
from rha.switch.testboot import TestBoot, clear_cut_off
from rha.vm.accelerator import Accelerator
from rha.vm.base import DomainState
from rha.vm.guest import outside
from rha.vm.guest.travel import Answer, Kept, Request
from rha.vm.null import NullHost
from tests.switch.boot_site import BootSite, TalkingHost, console_check

DOMAIN = domain_of_test("web")
DONE = [f"define {DOMAIN}", f"start {DOMAIN}", f"destroy {DOMAIN}", f"undefine {DOMAIN}"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testboot, "LAG_SECONDS", 0.01)
    monkeypatch.setattr("rha.switch.bootcheck.POLL_SECONDS", 0.01)


@pytest.fixture
def site(tmp_path: Path) -> BootSite:
    return BootSite(tmp_path, BootTest(check=[console_check()]))


def boot_of(site: BootSite, vm: NullHost, **words: Any) -> TestBoot:
    return TestBoot(
        site, vm, trigger("eve", "to be sure"), choose_accelerator=lambda _: Accelerator("tcg", "tried"), **words
    )


def kept(site: BootSite) -> list[BootReport]:
    return bootreport.read_all(site.folder)


def test_passed_reported_and_thrown_away(site: BootSite) -> None:
    vm = TalkingHost()
    report = boot_of(site, vm).run()
    assert (report.outcome, report.left) == ("passed", "")
    assert report.why.startswith("ready after ")
    assert vm.calls == DONE
    assert site.calls == ["open_point", "close_point"]
    assert not (site.folder / testboot.FILE).exists()
    assert kept(site) == [report]
    assert report.lag["during"].last_lsn > report.lag["before"].first_lsn
    text = (site.folder / "tests" / report.folder / "report.txt").read_text()
    assert "asked for by eve (to be sure)" in text
    assert "console 'login:': answered after" in text


def test_the_guest_is_adapted_as_in_a_failover(site: BootSite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def look(disks: object, request: Request, limit: float) -> Answer:
        asked.append(request)
        kept = [Kept(path="/etc/hostname", before=None, after=b"dr")]
        return Answer(bus="sata", bus_why="sata: no virtio in its initramfs", kept=kept)

    monkeypatch.setattr(outside, "run", look)
    site.scenario = msgspec.structs.replace(site.scenario, vm=Vm(firmware="bios"))
    vm = TalkingHost()
    report = boot_of(site, vm).run()
    assert (report.outcome, report.bus) == ("passed", "sata")
    assert "no virtio in its initramfs" in report.steps[1].sentence
    assert asked[0].wish.mac == vm.last.network.mac != ""
    assert not list(site.folder.rglob("guest.json")), "a failover would take it for its own"


def test_a_check_that_is_not_answered_fails(site: BootSite) -> None:
    site.scenario.test.check.append(console_check("never", 0.05))
    vm = TalkingHost("login: panic: no root")
    report = boot_of(site, vm).run()
    assert report.outcome == "failed"
    assert report.why.startswith("console 'never': its serial console has not shown it, for ")
    assert [check.answered for check in report.checks] == [True, False]
    assert vm.calls == DONE
    assert "FAILED     console 'never'" in "\n".join(bootreport.lines(report))


def test_who_is_asked_nothing_has_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rha.switch.bootplan.SETTLE_SECONDS", 0.05)
    assert boot_of(BootSite(tmp_path, BootTest()), TalkingHost()).run().outcome == "unchecked"


@pytest.mark.parametrize("verb", ["open_point"])
def test_a_step_that_fails(site: BootSite, verb: str) -> None:
    site.broken = {verb}
    report = boot_of(site, TalkingHost()).run()
    assert (report.outcome, report.why, report.left) == ("failed", "open_point broke", "")


def test_a_guest_that_stops_by_itself(site: BootSite) -> None:
    class Dying(TalkingHost):
        def console(self, name: str, *, tail_bytes: int = 2000) -> str:
            self.destroy(name)
            return "oops"

    site.scenario.test.check[:] = [console_check("login:", 60)]
    report = boot_of(site, Dying()).run()
    assert (report.outcome, report.why) == ("failed", f"domain {DOMAIN} is off: the guest has stopped by itself")


def test_a_bug_is_cleared_up_reported_and_told(site: BootSite) -> None:
    class Buggy(TalkingHost):
        def start(self, name: str) -> None:
            raise KeyError("oops")

    vm = Buggy()
    with pytest.raises(KeyError):
        boot_of(site, vm).run()
    assert site.calls == ["open_point", "close_point"]
    assert kept(site)[0].why == "bug: KeyError('oops')"


def test_a_point_that_is_none_is_refused(site: BootSite) -> None:
    site.broken = {"find_point"}
    with pytest.raises(StateError, match="find_point broke"):
        boot_of(site, TalkingHost()).run()
    assert not (site.folder / "tests").exists()


def test_no_memory_is_refused_before_anything_is_opened(site: BootSite) -> None:
    vm = TalkingHost()
    vm.free = 1 << 20
    with pytest.raises(VmError, match="not enough memory"):
        boot_of(site, vm).run()
    assert site.calls == vm.calls == []
    assert not (site.folder / "tests").exists()


def test_ended_from_outside(site: BootSite) -> None:
    site.scenario.test.check[:] = [console_check("never", 600)]
    vm = TalkingHost()
    boot = boot_of(site, vm)
    found: list[BootReport] = []
    worker = threading.Thread(target=lambda: found.append(boot.run()))
    worker.start()
    while vm.state(DOMAIN) != DomainState.RUNNING:
        assert worker.is_alive()
    boot.end("a failover begins")
    worker.join(30)
    assert (found[0].outcome, found[0].why, found[0].left) == ("ended", "a failover begins", "")
    assert "after" not in found[0].lag, "nobody waits for a figure while a failover begins"
    assert vm.calls == DONE


def test_kept_until_it_is_ended(site: BootSite) -> None:
    vm = TalkingHost()
    boot = boot_of(site, vm)
    worker = threading.Thread(target=lambda: boot.run(keep=True))
    worker.start()
    assert boot.settled.wait(30)
    assert vm.state(DOMAIN) == DomainState.RUNNING
    assert boot.kept is not None
    assert boot.kept.outcome == "passed"
    assert boot.progress is not None
    assert boot.progress.why == "passed; the VM is kept for a look"
    assert kept(site)[0].kept
    boot.end("by eve")
    worker.join(30)
    assert vm.calls == DONE
    assert (kept(site)[0].kept, kept(site)[0].outcome) == (False, "passed")


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("cut", [BootStep.OPEN_POINT, BootStep.DEFINE_DOMAIN, BootStep.START_DOMAIN, BootStep.CHECK])
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_nothing_is_left(
    site: BootSite, cut: BootStep, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before or just after the effect of each step."""
    made = testboot.Effects

    class CutEffects(made):  # type: ignore[misc, valid-type]
        def __init__(self, *words: Any) -> None:
            super().__init__(*words)
            whole = self.all[cut]

            def do(limit: float) -> None:
                if after:
                    whole.do(limit)
                raise Cut

            self.all[cut] = Effect(do, whole.undo)

    monkeypatch.setattr(testboot, "Effects", CutEffects)
    vm = TalkingHost()
    with pytest.raises(Cut):
        boot_of(site, vm).run()
    assert (site.folder / testboot.FILE).exists()
    assert clear_cut_off(site.folder, vm, "web", 10, lambda: None, lambda _: None)
    assert vm.state(DOMAIN) == DomainState.ABSENT
    assert not (site.folder / testboot.FILE).exists()
    assert kept(site)[0].outcome == "cut off"
    assert not clear_cut_off(site.folder, vm, "web", 10, lambda: None, lambda _: None)


def test_what_cannot_be_cleared_up_now_is_later(site: BootSite) -> None:
    class Silent(TalkingHost):
        def screenshot(self, name: str, path: Path) -> None:
            self.down = True
            raise VmError("libvirt does not answer")

    vm = Silent()
    report = boot_of(site, vm).run()
    assert (report.outcome, report.left) == ("passed", "libvirt does not answer")
    assert "LEFT       libvirt does not answer" in "\n".join(bootreport.lines(report))
    with pytest.raises(VmError):
        clear_cut_off(site.folder, vm, "web", 10, lambda: None, lambda _: None)
    vm.down = False
    assert clear_cut_off(site.folder, vm, "web", 10, lambda: None, lambda _: None)
    assert (kept(site)[0].outcome, kept(site)[0].left) == ("passed", "")
    assert vm.calls == DONE


def test_a_strangers_domain_is_left_alone(site: BootSite) -> None:
    class Strange(TalkingHost):
        def owner(self, name: str) -> str | None:
            return "mail" if super().owner(name) else None

    vm = Strange()
    boot_of(site, vm).run()
    assert vm.calls == DONE[:2]


def test_an_unreadable_note_stands_in_nobodys_way(site: BootSite) -> None:
    (site.folder / testboot.FILE).write_text("{")
    vm = TalkingHost()
    assert not clear_cut_off(site.folder, vm, "web", 10, lambda: None, lambda _: None)
    assert boot_of(site, vm).run().outcome == "passed"


def test_the_oldest_reports_go(site: BootSite) -> None:
    site.scenario = type(site.scenario)(
        name="web", disk=site.scenario.disk, appliance=site.scenario.appliance, vm=site.scenario.vm,
        test=BootTest(check=[console_check()], keep=2),
    )  # fmt: skip
    folders = [boot_of(site, TalkingHost()).run().folder for _ in range(4)]
    assert len(set(folders)) == 4
    assert [report.folder for report in kept(site)] == folders[-2:]
    (site.folder / "tests" / folders[-1] / "report.json").write_text("{")
    assert [report.folder for report in kept(site)] == folders[-2:-1]


def test_the_domain_is_on_a_network_of_its_own(site: BootSite) -> None:
    seen = []

    class Looking(TalkingHost):
        def start(self, name: str) -> None:
            seen.append(self.specs[name])
            super().start(name)

    site.scenario.test.ports.append(22)
    boot_of(site, Looking()).run()
    (spec,) = seen
    assert (spec.isolated, spec.network.kind) == (True, "user")
    assert [disk.name for disk in spec.disks] == ["root.qcow2", "data.qcow2"]
    assert [image.name for image in spec.backing] == ["root.raw", "data.raw"]
    assert [(forward.host, forward.guest_port) for forward in spec.network.forward] == [("127.0.0.1", 22)]
    assert spec.folder.parent == site.folder / "tests"
