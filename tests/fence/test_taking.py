"""The order in which a master is cut off: fences first, one is enough, then the lease."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rha.errors import StateError
from rha.fence import taking
from rha.fence.base import FencePlace
from rha.fence.etcd import Access
from rha.fence.taking import Means
from rha.scenario import Appliance, Duration, Fence, FenceScript, Lease, Scenario
from tests.fence.etcd_server import Server

pytestmark = pytest.mark.root


@pytest.fixture
def means(tmp_path: Path) -> Means:
    (tmp_path / "scripts").mkdir()
    for name, code in (("yes", 0), ("no", 1)):
        path = tmp_path / "scripts" / name
        path.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/calls\nexit {code}\n")
        path.chmod(0o755)
    return Means(FencePlace("web", tmp_path / "logs", tmp_path / "scripts"), "appliance a:/store", Access(()))


def scenario(*names: str, lease: Lease | None = None) -> Scenario:
    fences: list[Fence] = [FenceScript(run=name, limit=Duration(5)) for name in names]
    ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
    return Scenario(name="web", disk=[], appliance=ends, fence=fences, lease=lease)


def test_the_next_fence_when_one_fails(means: Means, tmp_path: Path) -> None:
    said: list[str] = []
    taking.cut_off(scenario("no", "yes", "no"), means, said.append)
    assert (tmp_path / "calls").read_text().split() == ["no", "yes"]
    assert said[0].startswith("fence no failed (exit code 1)")
    assert said[1].startswith("yes has cut the master off")


def test_all_fail(means: Means) -> None:
    with pytest.raises(StateError, match="the master may still serve") as error:
        taking.cut_off(scenario("no", "no"), means, lambda _: None)
    assert error.value.cause.count("fence no failed") == 2


def test_nothing_configured(means: Means) -> None:
    assert "neither a [[fence]] nor a [lease]" in str(taking.why_not_possible(scenario()))
    with pytest.raises(StateError, match="the master may still serve"):
        taking.cut_off(scenario(), means, lambda _: None)


def test_a_fenced_masters_lease_is_taken_at_once(means: Means, etcd: Server) -> None:
    lease = Lease(endpoints=[etcd.url], ttl=Duration(60))
    client = etcd.client()
    number, _ = client.grant(60)
    client.put_if(taking.key_of("web"), "master m", lease=number, revision=0)
    said: list[str] = []
    begun = time.monotonic()
    taking.cut_off(scenario("yes", lease=lease), means, said.append)
    assert time.monotonic() - begun < 30, "it has waited for the lease to end"
    held = client.read(taking.key_of("web"))
    assert held is not None
    assert (held.value, held.lease) == (means.me, 0)
    assert said[-1].startswith("the lease of web is taken, after ")


def test_a_fence_without_etcd_is_not_enough(means: Means, etcd: Server) -> None:
    """The master's engine would ask for the lease again when it is switched on."""
    etcd.kill()
    lease = Lease(endpoints=[etcd.url])
    with pytest.raises(StateError, match="the master may still serve"):
        taking.cut_off(scenario("yes", lease=lease), means, lambda _: None)


def test_check_names_every_way(means: Means, etcd: Server) -> None:
    said = taking.check(scenario("yes", "no", lease=Lease(endpoints=[etcd.url])), means)
    assert said[0].startswith("yes could cut the master off")
    assert said[1] == "nobody holds the lease"
    assert said[2].startswith("NOT: fence no failed")
    with pytest.raises(StateError, match="could not be cut off"):
        taking.check(scenario("no"), means)
