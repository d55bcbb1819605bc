"""A failover that must cut the master off first: what happens when that fails, is forced, or is given back."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from rha.errors import NetworkError, StorageError
from rha.image import formats
from rha.scenario import FenceScript, Lease, Scenario, Vm
from rha.switch import progress as ledger
from rha.switch.failover import discard_substitute, run_failover, steps_ahead
from rha.switch.progress import SERVING, Progress, Trigger
from rha.vm.accelerator import Accelerator
from rha.vm.null import NullHost
from tests.switch.one_scenario import OneScenario

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
CAUSE = Trigger(by="appliance", reason="silent", decided=2010.0)


@pytest.fixture
def host(tmp_path: Path) -> OneScenario:
    (tmp_path / "web").mkdir()
    formats.create(tmp_path / "web" / "root.qcow2", 1 << 20)
    host = OneScenario(tmp_path, [tmp_path / "web" / "root.qcow2"], Vm(firmware="bios", bus="virtio"))
    host.scenario = msgspec.structs.replace(
        host.scenario, fence=[FenceScript(run="cut-web")], lease=Lease(endpoints=["http://etcd:2379"])
    )
    return host


def go(host: OneScenario, vm: NullHost, *, force: bool = False) -> Progress:
    return run_failover(host, vm, CAUSE, force=force, choose_accelerator=lambda _: Accelerator("tcg", "tried"))


def test_the_master_is_cut_off_before_anything_else(host: OneScenario) -> None:
    assert steps_ahead(host, NullHost())[0] == "cut the master off by the script cut-web; take the lease in etcd"
    assert go(host, NullHost()).state == SERVING
    assert host.calls == ["cut_off", "stop_receiving", "apply_spool", "close_images"]


def test_without_certainty_nothing_begins(host: OneScenario) -> None:
    host.broken = {"cut_off"}
    vm = NullHost()
    with pytest.raises(StorageError, match="cut_off broke"):
        go(host, vm)
    assert host.calls == ["cut_off"]
    assert vm.calls == []
    assert ledger.load(host.folder) is None, "the master may connect as before"


def test_forced_it_goes_on_and_says_so(host: OneScenario) -> None:
    host.broken = {"cut_off"}
    progress = go(host, NullHost(), force=True)
    assert progress.state == SERVING
    assert "NOT certain, forced: cut_off broke" in progress.steps[0].sentence


def test_by_a_person_without_fence_or_lease(host: OneScenario) -> None:
    host.scenario = msgspec.structs.replace(host.scenario, fence=[], lease=None)
    assert go(host, NullHost()).state == SERVING
    assert "cut_off" not in host.calls


def test_the_lease_is_given_back_last_and_again_when_that_fails(host: OneScenario) -> None:
    vm, calls = NullHost(), list[str]()
    go(host, vm)

    def fails() -> None:
        calls.append(vm.calls[-1])
        raise NetworkError("etcd does not answer")

    with pytest.raises(NetworkError):
        discard_substitute(host.folder, vm, "web", release=fails)
    assert calls == ["undefine rha-web"]
    assert ledger.load(host.folder) is not None
    discard_substitute(host.folder, vm, "web", release=lambda: calls.append("released"))
    assert calls[-1] == "released"
    assert ledger.load(host.folder) is None


def test_the_sentence_of_each_way(host: OneScenario) -> None:
    def said(scenario: Scenario) -> str:
        host.scenario = scenario
        return steps_ahead(host, NullHost())[0]

    only_lease = msgspec.structs.replace(host.scenario, fence=[])
    assert said(only_lease) == "wait until the master's lease in etcd has ended, and take it"
