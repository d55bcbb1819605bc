"""Bad lines and slow disks behind them: nothing lost, no sync while the ring holds, and everybody stays in touch."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from proof.lab import MIB, Disk, Engine, Lab, run, wait_for
from proof.proxy import Proxy
from proof.writers import RawWriter
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

QUICK = 'lost_after = "1s"\n'  # four times that is silence
Fault = Callable[[Proxy, Engine], None]


def go_straight(lab: Lab, engine: Engine, proxy: Proxy) -> None:
    """Another engine process, past the proxy; it adopts the probe."""
    engine.kill()
    engine.scenario_file.write_text(engine.scenario_file.read_text().replace(str(proxy.port), str(lab.port)))
    engine.start()


def assert_nothing_lost(lab: Lab, engine: Engine, disk: Disk, proxy: Proxy) -> None:
    assert engine.losses() == {}
    go_straight(lab, engine, proxy)
    lab.assert_equal(engine, [disk])
    kinds = lab.appliance.journalled(engine.name)
    assert kinds.count(FrameType.MARK) == 1, "the ring held: no sync"
    assert kinds.count(FrameType.GAP) == 0


def reconnected(engine: Engine, proxy: Proxy, before: int) -> None:
    wait_for(lambda: proxy.connections > before and engine.report()["connected"], 40, engine.report)


def cut(proxy: Proxy, engine: Engine) -> None:
    proxy.cut()


def reset(proxy: Proxy, engine: Engine) -> None:
    proxy.cut(reset=True)


def damaged_up(proxy: Proxy, engine: Engine) -> None:
    proxy.damage("up")


def damaged_down(proxy: Proxy, engine: Engine) -> None:
    proxy.damage("down")


def silent_up(proxy: Proxy, engine: Engine) -> None:
    proxy.weather.held = {"up"}
    wait_for(lambda: not engine.report()["connected"], 30, engine.report)
    proxy.weather.held = set()


def silent_down(proxy: Proxy, engine: Engine) -> None:
    proxy.weather.held = {"down"}
    wait_for(lambda: not engine.report()["connected"], 30, engine.report)
    assert "silent" in engine.report()["why"]
    proxy.weather.held = set()


@pytest.mark.parametrize("fault", [cut, reset, damaged_up, damaged_down, silent_up, silent_down])
def test_broken_connection_goes_on_where_it_was(lab: Lab, fault: Fault) -> None:
    disk, draw = lab.disk(64 * MIB), random.Random(3)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        engine = lab.engine([disk.path], port=proxy.port, link=QUICK)
        engine.start()
        engine.wait_ordered()
        with RawWriter(disk.path, longest=32 << 10, pause=0.005):  # a silence must not outlast the ring
            for _ in range(2 if "silent" in fault.__name__ else 5):
                before = proxy.connections
                time.sleep(draw.random() * 0.3)
                fault(proxy, engine)
                reconnected(engine, proxy, before)
        assert_nothing_lost(lab, engine, disk, proxy)
        assert proxy.damaged == (5 if "damaged" in fault.__name__ else 0)


def test_slow_and_unsteady_line(lab: Lab) -> None:
    """80 to 120 ms of round trip, and a stall of 0.3 s for every fiftieth chunk of either direction."""
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        proxy.weather.latency, proxy.weather.jitter = 0.04, 0.02
        proxy.weather.stall_chance, proxy.weather.stall_seconds = 0.02, 0.3
        engine = lab.engine([disk.path], port=proxy.port, link=QUICK)
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        with RawWriter(disk.path, longest=32 << 10, pause=0.005) as writer:
            wait_for(lambda: writer.count > 400, 60)
        engine.wait_ordered()
        assert proxy.connections == 1, "unsteady is not broken"
        assert_nothing_lost(lab, engine, disk, proxy)


class TextWriter(RawWriter):
    """Content that shrinks, as logs and tables do."""

    def write_at(self, offset: int, length: int, misalign: int) -> None:
        line = b"%08d INFO request served in %d ms by worker %d\n" % (self.count, self.count % 97, self.count % 7)
        self._noise = (line * (length // len(line) + 2))[: length + (1 << 19)].ljust(1 << 20, b"-")
        super().write_at(offset, length, misalign)


def test_narrow_line_is_compressed_for_and_heartbeats_pass(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        engine = lab.engine([disk.path], port=proxy.port, link=QUICK)
        engine.start()
        engine.wait_ordered()
        proxy.weather.rate = 1.5 * MIB
        with TextWriter(disk.path, longest=MIB, pause=0.03):
            wait_for(lambda: "times smaller" in engine.report()["link"]["compression"], 30, engine.report)
            wait_for(lambda: engine.report()["link"]["sent_bytes"] * 2 < engine.report()["link"]["raw_bytes"], 30)
            age = lab.appliance.report(engine.name)["disks"]
            assert age, "the appliance hears the engine's reports"
            assert engine.report()["connected"]
        assert proxy.connections == 1
        proxy.weather.rate = 0
        engine.wait_ordered()
        assert_nothing_lost(lab, engine, disk, proxy)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_stream_gives_the_same_image(lab: Lab, codec: str) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], link=f'compression = "{codec}"\n')
    with TextWriter(disk.path, longest=MIB):
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        engine.kill()
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        wait_for(lambda: engine.report()["link"]["sent_bytes"] * 2 < engine.report()["link"]["raw_bytes"], 30)
        assert engine.report()["link"]["compression"] == codec
    lab.assert_equal(engine, [disk])


def test_limit_holds_and_is_shown(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    link = 'limit = "unlimited"\n[[link.schedule]]\nfrom = "00:00"\nto = "24:00"\nlimit = "2MiB/s"\n'
    engine = lab.engine([disk.path], link=link)
    engine.start()
    engine.wait_ordered()
    with RawWriter(disk.path, pause=0.005) as writer:
        wait_for(lambda: engine.report()["link"]["waits"] == "waits for its limit", 30, engine.report)
        before, begin = engine.report()["link"]["sent_bytes"], time.monotonic()
        wait_for(lambda: writer.count > 600, 30)
        sent, seconds = engine.report()["link"]["sent_bytes"] - before, time.monotonic() - begin
        assert engine.report()["link"]["limit"] == "limited to 2 MiB/s (mon-sun 00:00-24:00)"
    assert sent <= 2 * MIB * seconds + 2 * MIB, f"{sent / seconds / MIB:.1f} MiB/s"
    assert sent >= 2 * MIB * seconds / 2 - 2 * MIB, f"{sent / seconds / MIB:.1f} MiB/s"
    lab.assert_equal(engine, [disk])


def test_appliance_whose_disk_stands_still_stays_in_touch(lab: Lab) -> None:
    """Its file system is frozen: no write of the appliance ends. Credit stops the stream, not the connection."""
    disk, below = lab.disk(128 * MIB), lab.disk(2048 * MIB)
    store = lab.mount(below.path, "ext4")
    config = lab.folder / "appliance.toml"
    config.write_text(config.read_text().replace(str(lab.appliance.store), str(store / "store")))
    lab.appliance.store = store / "store"
    lab.stack.callback(lab.appliance.kill)  # before the store is unmounted
    lab.appliance.start()
    engine = lab.engine([disk.path], ring="64MiB", link=QUICK)
    engine.start()
    engine.wait_ordered()
    lab.stack.callback(subprocess.run, ["fsfreeze", "-u", str(store)], check=False, stderr=subprocess.DEVNULL)
    run("fsfreeze", "-f", store)
    with RawWriter(disk.path, longest=MIB, pause=0.001):
        wait_for(lambda: engine.report()["link"]["waits"] == "waits for the appliance's disk", 30, engine.report)
        stands = engine.report()["link"]["sent_bytes"]
        wait_for(lambda: engine.losses().get("ring-full"), 30, engine.report)
        silence = time.monotonic() + 6  # longer than what is held for silence
        while time.monotonic() < silence:
            assert engine.report()["connected"], engine.report()
            time.sleep(0.2)
        assert engine.state() == "bitmap", "a loss of order is noticed while nothing can be sent"
        assert engine.report()["link"]["sent_bytes"] - stands < 2 * MIB, "only heartbeats"
    run("fsfreeze", "-u", store)
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    lab.assert_equal(engine, [disk])


def test_gap_that_did_not_arrive_is_told_again(lab: Lab) -> None:
    """The link breaks when the ring is empty enough for a resync and the gap at its end is still to be sent. A resync
    begun then would clear the gap in the kernel, and the appliance would never hear of it."""
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    with Proxy(lab.port) as proxy:
        engine = lab.engine([disk.path], ring="4MiB", port=proxy.port, link=QUICK + 'compression = "none"\n')
        engine.start()
        engine.wait_ordered()
        proxy.refuses = True
        proxy.cut()
        with RawWriter(disk.path, longest=64 << 10):
            wait_for(lambda: engine.losses().get("ring-full"), 30, engine.report)
        proxy.refuses, proxy.weather.rate = False, 0.25 * MIB

        def nearly_empty() -> dict[str, Any]:
            report = engine.report()
            return (
                report if 0 < report["ring_used_bytes"] <= report["ring_bytes"] // 4 else {}
            )  # the last frame is under way

        assert wait_for(nearly_empty, 60, engine.report)["state"] == "bitmap"
        proxy.cut()
        proxy.weather.rate = 0
        go_straight(lab, engine, proxy)
        lab.assert_equal(engine, [disk])
    assert FrameType.GAP in lab.appliance.journalled(engine.name)
