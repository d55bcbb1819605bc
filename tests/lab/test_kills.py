"""`kill -9` of either daemon, and a link that is cut: no write is lost, no order, and nothing is synced again."""

import random
import time
from collections.abc import Callable

import pytest
from lab import MIB, Appliance, Engine, Lab, wait_for
from proxy import Proxy
from writers import RawWriter

from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

KILLS, CUTS = 5, 10


def after_more_records(engine: Engine, writer: RawWriter, count: int = 30) -> None:
    """Waits until the writer has gone on for a while."""
    target = writer.count + count
    wait_for(lambda: writer.count > target, 30, engine.log)


def assert_never_synced_again(appliance: Appliance, name: str) -> None:
    kinds = appliance.journalled(name)
    assert kinds.count(FrameType.HELLO) == 1, "another generation began"
    assert kinds.count(FrameType.MARK) == 1, "a resync was made"
    assert kinds.count(FrameType.GAP) == 0


def test_killed_engine_goes_on_without_resync(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], ring="128MiB")
    engine.start()
    engine.wait_ordered()
    with RawWriter(disk.path, longest=128 << 10, pause=0.01) as writer:
        for _ in range(KILLS):
            after_more_records(engine, writer)
            engine.kill()
            after_more_records(engine, writer)
            engine.start()
        engine_log = engine.log()
        wait_for(lambda: engine.state() == "write-order", 30, engine.report)
    assert engine_log.count("adopted the probe") == KILLS, engine_log
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    assert_never_synced_again(lab.appliance, engine.name)


def test_engine_killed_during_a_sync_goes_on_with_what_is_left(lab: Lab) -> None:
    disk = lab.disk(192 * MIB)
    with RawWriter(disk.path, longest=5 * MIB, pause=0) as writer:
        wait_for(lambda: writer.count > 100, 30)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    with RawWriter(disk.path, pause=0.01):
        wait_for(lambda: engine.state() == "catching-up" and engine.report()["disks"][0]["sync"], 30, engine.report)
        engine.kill()
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    assert "adopted the probe" in engine.log()
    lab.assert_equal(engine, [disk])


def kill_appliance(lab: Lab, acknowledged: Callable[[], int]) -> None:
    """Kills it, and looks at once what it must still have when it is there again."""
    before = acknowledged()
    lab.appliance.kill()
    lab.appliance.start()
    wait_for(lambda: acknowledged() >= before, 60, lambda: (before, lab.appliance.log()))


def test_killed_appliance_redoes_and_keeps_what_it_acknowledged(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], ring="128MiB")
    engine.start()
    engine.wait_ordered()
    released: list[int] = []

    def acknowledged() -> int:
        """What the ring has given back; the engine does that on acknowledgement only."""
        report = engine.report()
        released.append(report["payload_bytes"] - report["lag_bytes"])
        return released[-1]

    with RawWriter(disk.path, longest=128 << 10, pause=0.01) as writer:
        for _ in range(KILLS):
            after_more_records(engine, writer)
            kill_appliance(lab, acknowledged)
            wait_for(lambda: engine.report()["connected"], 60, engine.report)
        wait_for(lambda: engine.state() == "write-order", 30, engine.report)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    assert_never_synced_again(lab.appliance, engine.name)


def test_link_cut_at_random_moments(lab: Lab) -> None:
    disk, draw = lab.disk(64 * MIB), random.Random(6)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        engine = lab.engine([disk.path], ring="128MiB", port=proxy.port)
        engine.start()
        engine.wait_ordered()
        with RawWriter(disk.path, longest=128 << 10, pause=0.01) as writer:
            for _ in range(CUTS):
                passed = proxy.passed + draw.randrange(1 << 20)
                wait_for(lambda until=passed: proxy.passed > until, 60, engine.report)
                proxy.cut()
                after_more_records(engine, writer, 10)
            wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        assert engine.losses() == {}
        lab.assert_equal(engine, [disk])
    assert_never_synced_again(lab.appliance, engine.name)


def test_link_cut_during_a_sync(lab: Lab) -> None:
    disk, draw = lab.disk(192 * MIB), random.Random(7)
    with RawWriter(disk.path, longest=5 * MIB, pause=0) as writer:
        wait_for(lambda: writer.count > 100, 30)
    lab.appliance.start()
    with Proxy(lab.port) as proxy, RawWriter(disk.path, pause=0.01):
        engine = lab.engine([disk.path], port=proxy.port)
        engine.start()
        for _ in range(3):
            passed = proxy.passed + draw.randrange(10 << 20)
            wait_for(lambda until=passed: proxy.passed > until, 60, engine.report)
            proxy.cut()
        begin = time.monotonic()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        assert time.monotonic() - begin < 60
    with Proxy(lab.port):
        pass
