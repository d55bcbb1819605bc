"""The spool holds what the ring cannot: nothing is lost and nothing synced again, whatever dies meanwhile. Where it
cannot be read back, the engine says so and compares."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from test_bad_links import assert_nothing_lost, go_straight

from proof.lab import MIB, RHA, Disk, Engine, Lab, run, wait_for
from proof.proxy import Proxy
from proof.writers import RawWriter
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

RING = "4MiB"


def spooling_engine(lab: Lab, disk: Disk, proxy: Proxy, path: Path | None = None, size: str = "96MiB") -> Engine:
    """In write order, its link cut; the ring is far too small for what will be written."""
    path = path or lab.folder / "spool"
    more = f'[spool]\npath = "{path}"\nsize = "{size}"\n'
    engine = lab.engine([disk.path], ring=RING, port=proxy.port, link='lost_after = "1s"\n', more=more)
    lab.appliance.start()
    engine.start()
    engine.wait_ordered()
    lose_link(proxy, engine)
    return engine


def lose_link(proxy: Proxy, engine: Engine) -> None:
    proxy.refuses = True
    proxy.cut()
    wait_for(lambda: not engine.report()["connected"], 20, engine.report)


def used(engine: Engine) -> int:
    spool = engine.report().get("spool")
    return int(spool["used_bytes"]) if spool else 0


def wait_spooled(engine: Engine, least: int) -> None:
    wait_for(lambda: used(engine) >= least, 30, engine.report)


def reconnect(proxy: Proxy, engine: Engine) -> None:
    proxy.refuses = False
    wait_for(lambda: engine.report()["connected"], 60, engine.report)


def test_outage_longer_than_the_ring(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy)
        with RawWriter(disk.path, longest=64 << 10, pause=0.003):
            wait_spooled(engine, 24 * MIB)
            assert "wait for the appliance" in engine.report()["spool"]["why"]
            assert engine.report()["lag_bytes"] >= 24 * MIB
            reconnect(proxy, engine)
            wait_for(lambda: used(engine) == 0, 60, engine.report)
        assert_nothing_lost(lab, engine, disk, proxy)


def test_killed_while_spooling(lab: Lab) -> None:
    """Also while what was spooled is shipped; and the link comes and goes."""
    disk, draw = lab.disk(64 * MIB), random.Random(5)
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy)
        with RawWriter(disk.path, longest=64 << 10, pause=0.004) as writer:
            for turn in range(6):
                wait_spooled(engine, draw.randrange(1, 8) * MIB)
                if turn % 2:
                    proxy.weather.rate = 8 * MIB
                    reconnect(proxy, engine)
                writer.pause = 0.05  # how long an engine takes to start is the host's affair: the ring must not fill
                engine.kill()
                proxy.refuses, proxy.weather.rate = True, 0.0
                engine.start()
                assert "adopted the probe" in engine.log()
                writer.pause = 0.004
            reconnect(proxy, engine)
        assert_nothing_lost(lab, engine, disk, proxy)


def test_slow_line_is_helped_too(lab: Lab) -> None:
    """Connected all the time, and slower than the writer."""
    disk = lab.disk(64 * MIB)
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy)
        proxy.weather.rate = 2 * MIB
        reconnect(proxy, engine)
        with RawWriter(disk.path, longest=64 << 10, pause=0.003):
            wait_spooled(engine, 12 * MIB)
            assert engine.report()["connected"]
        proxy.weather.rate = 0
        assert_nothing_lost(lab, engine, disk, proxy)


def test_full_spool_falls_back_to_the_bitmap(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy, size="16MiB")
        with RawWriter(disk.path, longest=64 << 10, pause=0.002):
            wait_for(lambda: engine.losses().get("ring-full"), 40, engine.report)
            report = engine.report()
            assert report["health"] == "alarm"
            assert any(alarm.startswith("spool full: holds") for alarm in report["alarms"]), report["alarms"]
            reconnect(proxy, engine)
            wait_for(lambda: engine.state() == "write-order", 90, engine.report)
        go_straight(lab, engine, proxy)
        lab.assert_equal(engine, [disk])
        kinds = lab.appliance.journalled(engine.name)
        assert kinds.index(FrameType.GAP) < len(kinds) - kinds[::-1].index(FrameType.MARK), "a gap, then a resync"


def spoil(path: Path) -> None:
    """Overwrites the data of the spool with other bytes; its table says what it said."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 + size // (256 << 10) * 64)
        file.write(random.Random(1).randbytes(8 * MIB))


def lose(path: Path) -> None:
    path.unlink()


def belong_elsewhere(path: Path) -> None:
    """The table of another generation: every entry has its own checksum, so they are all void."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(64 * 384))


@pytest.mark.parametrize("harm", [spoil, lose, belong_elsewhere])
def test_spool_that_cannot_be_read_back_is_said_and_compared(lab: Lab, harm: object) -> None:
    disk, path = lab.disk(64 * MIB), lab.folder / "spool"
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy, path)
        with RawWriter(disk.path, longest=64 << 10, pause=0.003):
            wait_spooled(engine, 12 * MIB)
            engine.kill()
            harm(path)  # type: ignore[operator]
            engine.start()
            reconnect(proxy, engine)
            wait_for(lambda: engine.state() == "write-order", 90, engine.report)
        go_straight(lab, engine, proxy)
        lab.assert_equal(engine, [disk])
        marks = [kind for kind in lab.appliance.journalled(engine.name) if kind is FrameType.MARK]
        assert len(marks) == 2, "compared once more"


def test_spool_of_an_unloaded_probe_is_not_shipped(lab: Lab) -> None:
    """Another generation: what was spooled is no part of its stream."""
    disk = lab.disk(64 * MIB)
    with Proxy(lab.port) as proxy:
        engine = spooling_engine(lab, disk, proxy)
        with RawWriter(disk.path, longest=64 << 10, pause=0.003):
            wait_spooled(engine, 12 * MIB)
            engine.unload()
            engine.start()
            assert used(engine) == 0
            reconnect(proxy, engine)
            wait_for(lambda: engine.state() == "write-order", 90, engine.report)
        go_straight(lab, engine, proxy)
        lab.assert_equal(engine, [disk])


def test_no_room_for_the_spool(lab: Lab) -> None:
    """It is refused when the engine starts, aloud; the disk is protected without it."""
    disk, small = lab.disk(64 * MIB), lab.disk(32 * MIB)
    folder = lab.mount(small.path, "ext4")
    engine = lab.engine([disk.path], more=f'[spool]\npath = "{folder}/spool"\nsize = "96MiB"\n')
    lab.appliance.start()
    engine.start()
    engine.wait_ordered()
    report = engine.report()
    assert report["health"] == "alarm"
    assert any("No space left on device" in alarm for alarm in report["alarms"]), report["alarms"]
    lab.assert_equal(engine, [disk])


def test_spool_behind_a_loop_device_on_a_watched_disk_is_refused(lab: Lab) -> None:
    disk = lab.disk(128 * MIB)
    folder = lab.mount(disk.path, "ext4")
    run("truncate", "-s", "48M", folder / "inner.img")
    inner = run("losetup", "--find", "--show", folder / "inner.img")
    lab.stack.callback(run, "losetup", "--detach", inner)
    place = lab.mount(inner, "ext4")
    lab.appliance.start()
    engine = lab.engine([disk.path], more=f'[spool]\npath = "{place}/spool"\nsize = "16MiB"\n')
    engine.start()
    engine.wait_ordered()
    assert any("cannot lie on a protected disk" in alarm for alarm in engine.report()["alarms"])
    assert not (place / "spool").exists()
    checked = subprocess.run(
        [*RHA, "scenario", "check", engine.scenario_file, "--here"], capture_output=True, text=True
    )
    assert checked.returncode == 7
    assert "cannot lie on a protected disk" in checked.stderr
    engine.unload()


def test_foreign_file_is_left_alone(lab: Lab) -> None:
    disk, path = lab.disk(64 * MIB), lab.folder / "precious"
    path.write_bytes(b"accounts of 2024" * 1000)
    kept = lab.folder / "kept"
    shutil.copy(path, kept)
    engine = lab.engine([disk.path], more=f'[spool]\npath = "{path}"\nsize = "32MiB"\n')
    lab.appliance.start()
    engine.start()
    wait_for(lambda: engine.report().get("alarms"), 20, engine.report)
    assert any("is no spool" in alarm for alarm in engine.report()["alarms"])
    assert path.read_bytes() == kept.read_bytes()
