"""A whole switchback: an appliance process, a libvirt guest that writes all the time, and `rha receive` on loop
devices. What is equal in the end is judged by qemu-img and sha256sum."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from rha.errors import StateError
from rha.vm.base import DomainState
from tests.switch.returning_site import Site, wait_for

pytestmark = pytest.mark.root


@pytest.fixture
def site(store, libvirt_host):
    with ExitStack() as stack:
        made = Site(store, libvirt_host, stack)
        yield made
        print(made.logs())  # pytest shows it when a test has failed


def test_there_and_home_again(site):
    site.fail_over()
    with pytest.raises(StateError, match="ended with 9"):
        site.rha("switchback", site.name, "--yes")  # nobody receives
    receiver = site.receive()
    assert "compare the master's disks" in site.rha("switchback", site.name, "--dry-run")
    said = site.rha("switchback", site.name, "--yes", "--reason", "new disks")
    assert "done: compared" in said
    assert receiver.wait(60) == 0
    assert site.libvirt.state(site.domain) == DomainState.ABSENT
    wait_for(lambda: site.report().state == "consistent", "the replica")
    site.appliance.stop()
    assert site.target_digests() == site.image_digests()
    assert site.lost_writes() == ""
