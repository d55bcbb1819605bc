"""A whole switchback: an appliance process, a libvirt guest that writes all the time, and `rha receive` on loop
devices. What is equal in the end is judged by qemu-img, sha256sum and the guest's own rule."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from rha.errors import StateError
from rha.switch import returned, switches
from rha.vm.base import DomainState
from tests.redirect.conftest import named, new_named  # noqa: F401
from tests.switch.returning_site import Site, wait_for
from tests.switch.writing_guest import BEGUN

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]
MASTER, REPLICA = "192.0.2.10", "192.0.2.20"


@pytest.fixture
def site(store, libvirt_host, named, request):  # noqa: F811
    """Clients come by the name www.example.org."""
    table = f"""[[redirect]]
type = "dns"
servers = ["{named.address}"]
zone = "example.org"
name = "www"
key = "{named.key}"
master = ["{MASTER}", "2001:db8::10"]
replica = ["{REPLICA}"]
"""
    with ExitStack() as stack:
        made = Site(store, libvirt_host, stack, redirect=table, **getattr(request, "param", {}))
        made.clients = lambda: named.dig("www.example.org")
        yield made
        print(made.logs())  # pytest shows it when a test has failed


def is_home(site: Site, *, boots: int = 1) -> None:
    """The end of a switchback that went well. A guest that has booted again counts from 1 again: then its disk does not
    show how far it was."""
    assert site.libvirt.state(site.domain) == DomainState.ABSENT
    wait_for(lambda: site.report().state == "consistent", "the replica")
    assert not (site.folder / returned.FILE).exists()
    assert not (site.folder / "back").exists()
    assert site.clients() == [MASTER]
    site.appliance.stop()
    assert site.target_digests() == site.image_digests()
    if boots == 1:
        assert site.lost_writes() == ""


def test_there_and_home_again(site):
    site.fail_over()
    with pytest.raises(StateError, match="ended with 9"):
        site.rha("switchback", site.name, "--yes")  # nobody receives
    receiver = site.receive()
    assert "compare the master's disks" in site.rha("switchback", site.name, "--dry-run")
    said = site.rha("switchback", site.name, "--yes", "--reason", "new disks", "--verify", "all")
    assert "in the pause everything (72 MiB) was read back" in said
    assert receiver.wait(300) == 0
    assert "may boot" in site.logs()
    is_home(site)
    last = switches.read(site.folder)[-1]
    assert (last.kind, last.outcome, last.reason) == ("switchback", "done", "new disks")


class Away(threading.Thread):
    """`rha switchback` beside the test. `failure`: what it ended with."""

    def __init__(self, site: Site, *words: str) -> None:
        super().__init__(daemon=True)
        self.site, self.words, self.failure, self.said = site, words, "", ""
        self.start()

    def run(self) -> None:
        try:
            self.said = self.site.rha("switchback", self.site.name, "--yes", *self.words)
        except StateError as error:
            self.failure = f"{error.what}\n{error.cause}"

    def comes_to(self, step: str) -> None:
        """Raises AssertionError when it never does."""
        wait_for(lambda: self.failure or self._step() == step, step)
        assert not self.failure

    def _step(self) -> str:
        progress = returned.load(self.site.folder)
        return progress.steps[-1].name if progress and progress.steps else ""

    def end(self) -> None:
        self.join(400)
        assert not self.is_alive(), "rha switchback does not end"


def serves_as_before(site: Site) -> None:
    wait_for(lambda: not (site.folder / returned.FILE).exists(), "the way back")
    assert site.libvirt.state(site.domain) == DomainState.RUNNING
    assert site.report().state == "serving"
    assert site.clients() == [REPLICA]
    bitmaps = [
        bitmap
        for block in site.libvirt.monitor(site.domain, "query-block")
        for bitmap in block.get("inserted", {}).get("dirty-bitmaps", [])
    ]
    assert bitmaps == []


@pytest.mark.parametrize("site", [{"read_limit": "12MiB/s"}], indirect=True)
def test_each_side_killed_while_it_copies(site):
    """And a person who thinks better of it. A line that breaks is no end: then the copy goes on."""
    site.fail_over()
    receiver = site.receive()

    act = Away(site)
    act.comes_to("copy")
    site.kill_appliance()
    act.end()
    assert act.failure
    serves_as_before(site)

    wait_for(lambda: site.report().back, "the receiver's return")
    act = Away(site)
    act.comes_to("copy")
    with pytest.raises(StateError):
        site.rha("discard", site.name, "--yes")
    assert "the substitute serves on" in site.rha("switchback", site.name, "--abort")
    act.end()
    assert "broken off" in act.failure
    serves_as_before(site)

    act = Away(site)
    act.comes_to("copy")
    receiver.kill()
    receiver.stop()
    receiver = site.receive()
    act.end()
    assert "started anew" in act.failure
    serves_as_before(site)

    act = Away(site)
    act.comes_to("copy")
    site.cut_line()
    act.end()
    assert act.failure == ""
    assert receiver.wait(300) == 0
    assert "the copy goes on" in site.logs()
    is_home(site)


@pytest.mark.parametrize("site", [{"read_limit": "12MiB/s"}], indirect=True)
def test_each_side_killed_in_the_pause(site):
    """Before the master was told anything the substitute boots again; after that it goes on by itself."""
    site.fail_over()
    receiver = site.receive()

    act = Away(site, "--verify", "all")
    act.comes_to("verify")
    assert site.libvirt.state(site.domain) == DomainState.OFF
    assert site.clients() == [MASTER]
    site.kill_appliance()
    act.end()
    assert act.failure
    serves_as_before(site)
    wait_for(lambda: site.libvirt.console(site.domain).count(BEGUN) == 2, "the guest's second boot")

    wait_for(lambda: site.report().back, "the receiver's return")
    act = Away(site, "--verify", "all")
    act.comes_to("verify")
    receiver.kill()
    receiver.stop()
    act.end()
    assert "the receiver is gone" in act.failure
    serves_as_before(site)
    wait_for(lambda: site.libvirt.console(site.domain).count(BEGUN) == 3, "the guest's third boot")

    receiver = site.receive()
    act = Away(site)
    act.comes_to("keep")
    site.kill_appliance()
    act.end()
    assert receiver.wait(300) == 0
    wait_for(lambda: not (site.folder / returned.FILE).exists(), "the end")
    assert switches.read(site.folder)[-1].outcome == "done"
    is_home(site, boots=3)
