"""A first sync that is broken off goes on with what is left, and nothing of it is missing."""

from __future__ import annotations

import random

import pytest

from proof.lab import MIB, Disk, Engine, Lab, wait_for
from proof.proxy import Proxy
from proof.writers import RawWriter

pytestmark = pytest.mark.root


def full_disk(lab: Lab) -> Disk:
    """192 MiB, most of it noise."""
    disk = lab.disk(192 * MIB)
    with RawWriter(disk.path, longest=5 * MIB, pause=0) as writer:
        wait_for(lambda: writer.count > 100, 30)
    return disk


def sent_bytes(engine: Engine) -> int:
    """What the running sync has sent; 0 when none runs."""
    return max((disk["sync"]["sent_bytes"] for disk in engine.report()["disks"] if disk["sync"]), default=0)


def test_engine_killed_during_a_sync(lab: Lab) -> None:
    disk = full_disk(lab)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    with RawWriter(disk.path, pause=0.01):
        wait_for(lambda: sent_bytes(engine), 30, engine.report)
        engine.kill()
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    assert "adopted the probe" in engine.log()
    lab.assert_equal(engine, [disk])


def test_appliance_killed_during_a_sync(lab: Lab) -> None:
    disk = full_disk(lab)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    with RawWriter(disk.path, pause=0.01):
        wait_for(lambda: sent_bytes(engine), 30, engine.report)
        lab.appliance.kill()
        lab.appliance.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    lab.assert_equal(engine, [disk])


def test_link_cut_during_a_sync(lab: Lab) -> None:
    disk, draw = full_disk(lab), random.Random(7)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        engine = lab.engine([disk.path], port=proxy.port)
        engine.start()
        with RawWriter(disk.path, pause=0.01):
            for _ in range(3):
                enough = draw.randrange(1, 8 * MIB)
                wait_for(lambda enough=enough: sent_bytes(engine) >= enough, 30, engine.report)
                proxy.cut()
                wait_for(lambda: not sent_bytes(engine), 10, engine.report)
            wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        assert proxy.cuts >= 3
        lab.assert_equal(engine, [disk])
