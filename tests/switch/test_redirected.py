"""A failover that redirects clients: a real BIND, real images, a VM host that runs nothing."""

import shutil

import msgspec
import pytest

from rha.errors import NetworkError
from rha.image import formats
from rha.redirect import run
from rha.redirect.base import replica_place
from rha.scenario import RewriteDns, Vm
from rha.switch import progress as ledger
from rha.switch.failover import discard_substitute, run_failover, steps_ahead
from rha.switch.progress import SERVING, Trigger
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.redirect.conftest import named, new_named  # noqa: F401
from tests.switch.one_scenario import OneScenario

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
WWW = "www.example.org"


@pytest.fixture
def host(tmp_path, named):  # noqa: F811
    folder = tmp_path / "web"
    folder.mkdir()
    formats.create(folder / "root.qcow2", 1 << 20)
    host = OneScenario(tmp_path, [folder / "root.qcow2"], Vm(firmware="bios", bus="virtio"))
    table = RewriteDns(servers=[named.address], zone="example.org", name="www", key=str(named.key),
                       master=["192.0.2.10", "2001:db8::10"], replica=["192.0.2.20"])  # fmt: skip
    host.scenario = msgspec.structs.replace(host.scenario, redirect=[table])
    return host


def go(host, vm, **words):
    cause = Trigger(by="eve", reason="", decided=10.0)
    return run_failover(host, vm, cause, choose_accelerator=lambda _: Accelerator("tcg", "tried"), **words)


def test_clients_are_there_when_it_serves_and_back_after_discard(host, named):  # noqa: F811
    vm = NullHost()
    assert go(host, vm).state == SERVING
    assert named.dig(WWW) == ["192.0.2.20"]
    discard_substitute(host.folder, vm, "web")
    assert (named.dig(WWW), named.ttl(WWW)) == (["192.0.2.10"], 300)
    assert run.standing(replica_place("web", host.folder)) is None


def test_a_server_that_refuses_stops_it_before_anything_is_changed(host, named):  # noqa: F811
    named.stop()
    with pytest.raises(NetworkError, match="nothing was changed"):
        go(host, NullHost())
    assert host.calls == []
    assert ledger.load(host.folder) is None, "no failover has begun: the master may connect"
    assert steps_ahead(host, NullHost(), force=True)[0] == "stop receiving from the master"


def test_clients_that_cannot_be_led_back_keep_their_substitute(host, named):  # noqa: F811
    vm = NullHost()
    go(host, vm)
    named.stop()
    with pytest.raises(NetworkError, match="not reverted"):
        discard_substitute(host.folder, vm, "web")
    assert vm.calls == ["define rha-web", "start rha-web"]
    assert (host.folder / "substitute" / "root.qcow2").exists()
    said = run.forget(replica_place("web", host.folder))
    assert said[0].startswith("redirections failed: DNS server")
    discard_substitute(host.folder, vm, "web")
    assert "undefine rha-web" in vm.calls
