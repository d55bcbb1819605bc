"""A whole failover on a real libvirt with emulated guests: the master's disk boots, from its overlay."""

import os
import socket
import threading
import time

import pytest

from rha.errors import VmError
from rha.image import formats
from rha.scenario import Check, Duration, Forward, Network, Vm
from rha.switch import progress as ledger
from rha.switch.failover import discard_substitute, run_failover
from rha.switch.progress import trigger
from rha.vm.accelerator import Accelerator
from rha.vm.base import DomainState
from rha.wire.messages import Heartbeat
from tests.switch.one_scenario import OneScenario
from tests.vm.sectors import printing_disk

pytestmark = pytest.mark.root


@pytest.fixture
def fail_over(store, libvirt_host):
    """Fails over a two-disk scenario whose second disk boots; cleans up afterwards."""
    folder = store / f"test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    boot, data = printing_disk(folder / "boot.raw", b"it serves\r\n"), folder / "data.qcow2"
    formats.create(data, 1 << 20)

    def act(vm: Vm):
        host = OneScenario(store, [data, boot], vm)
        cause = trigger("appliance", "silent", Heartbeat(time=1000.25, captured_lsn=4096), heartbeat_age=6.0)
        return host, run_failover(host, libvirt_host, cause, choose_accelerator=lambda _: Accelerator("tcg", "tried"))

    yield act
    discard_substitute(folder, libvirt_host, folder.name)
    assert libvirt_host.state(f"rha-{folder.name}") == DomainState.ABSENT


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_the_disk_that_boots_is_recognised_and_boots(fail_over, libvirt_host):
    before = time.time()
    host, progress = fail_over(Vm(bus="virtio", memory=64 << 20))
    assert (progress.firmware, progress.firmware_why) == ("bios", "GRUB in the MBR")
    until = time.monotonic() + 30
    while "it serves" not in libvirt_host.console(progress.domain):
        assert time.monotonic() < until, "the guest did not boot from the second disk of the scenario"
        time.sleep(0.1)
    assert progress.rpo_seconds == 0.25
    assert 6.0 <= progress.rto_seconds <= 6.5 + time.time() - before
    assert ledger.load(host.folder).sentence() == progress.sentence()


def test_a_forward_that_accepts_is_not_a_guest_that_answers(fail_over):
    port = free_port()
    ready = Check(kind="tcp", address=f"127.0.0.1:{port}", timeout=Duration(0.5))
    network = Network(kind="user", forward=[Forward(host_port=port, guest_port=22)])
    with pytest.raises(VmError) as caught:
        fail_over(Vm(bus="virtio", memory=64 << 20, ready=ready, network=network, ready_timeout=Duration(5)))
    assert "the guest does not accept connections on port 22" in caught.value.what
    assert caught.value.cause.endswith("it serves")


def test_it_waits_until_the_check_answers(fail_over):
    port = free_port()
    ready = Check(kind="tcp", address=f"127.0.0.1:{port}", timeout=Duration(0.5))
    late: list[socket.socket] = []
    timer = threading.Timer(3.0, lambda: late.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    try:
        _, progress = fail_over(Vm(bus="virtio", memory=64 << 20, ready=ready))
    finally:
        timer.join()
        for server in late:
            server.close()
    assert progress.boot_seconds > 1.0
