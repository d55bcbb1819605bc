"""What doctor says of leases and fences."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.setting import free_ports
from rha.appliance import catalog
from rha.doctor import fence
from rha.fence.base import FencePlace
from rha.fence.etcd import Access
from rha.fence.taking import Means
from rha.scenario import Appliance, FenceScript, Lease, Scenario
from tests.fence.etcd_server import running

pytestmark = pytest.mark.root
ENDS = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")


@pytest.fixture
def means(tmp_path: Path) -> Means:
    (tmp_path / "scripts").mkdir()
    for name, code in (("yes", 0), ("no", 1)):
        (tmp_path / "scripts" / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / "scripts" / name).chmod(0o755)
    return Means(FencePlace("web", tmp_path / "logs", tmp_path / "scripts"), "appliance a", Access(()))


def scenario(*names: str, lease: Lease | None = None) -> Scenario:
    return Scenario(name="web", disk=[], appliance=ENDS, fence=[FenceScript(run=name) for name in names], lease=lease)


def test_members_of_etcd(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_ports(1)[0]}"
    with running(tmp_path / "etcd") as server:
        alone = fence.member(server.url, Access([server.url]))
        assert (alone.grade, alone.finding) == ("warning", "answers, but is the only one")
        assert fence.member(server.url, Access([server.url, gone])).grade == "ok"
        assert fence.member(gone, Access([server.url, gone])).grade == "warning"
    finding = fence.member(gone, Access([gone]))
    assert finding.grade == "fault"
    assert "Connection refused" in finding.finding


def test_a_card_that_is_not_there() -> None:
    lease = Lease(endpoints=["http://e:1"], addresses=["192.0.2.1/24"], interface="none0")
    finding = fence.serving(lease)
    assert finding.grade == "fault"
    assert "this host has no network card none0" in finding.finding


def test_ways_to_cut_a_master_off(means: Means) -> None:
    assert fence.ways(scenario("yes"), means).grade == "ok"
    mixed = fence.ways(scenario("no", "yes"), means)
    assert mixed.grade == "warning"
    assert "NOT: fence no failed (exit code 1)" in mixed.finding
    assert fence.ways(scenario("no"), means).grade == "fault"
    none = fence.ways(scenario(), means)
    assert (none.grade, none.hint) == ("warning", "without [[fence]] or [lease] only a person may fail over")


def test_scenarios_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    catalog.save_scenario(tmp_path / "web", scenario("yes"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scenario.json").write_text("{")
    assert [one.name for one in fence.known(tmp_path)] == ["web"]
    assert fence.known(tmp_path / "none") == []
