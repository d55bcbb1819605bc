"""States with their reasons on real devices: what cannot be trusted is compared, and the appliance hears of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from proof.lab import MIB, RHA, Disk, Engine, Lab, environment, run, wait_for
from proof.writers import RawWriter
from rha.capture import bpf, pins, shared
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root


@contextmanager
def pinned_state(scenario: str) -> Iterator[Any]:
    """The state that the probe and the engine share, to be tampered with."""
    fd = bpf.get(pins.folder(scenario) / "state")
    try:
        yield shared.view(fd, shared.STATE, 1)[0]
    finally:
        os.close(fd)


def ordered(lab: Lab, size: int = 64 * MIB) -> tuple[Engine, Disk]:
    disk = lab.disk(size)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    lab.appliance.wait_applied(engine.name)
    return engine, disk


def history(engine: Engine) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*RHA, "history", engine.name, "--states", "--json"],
        env=environment(engine.socket.parent),
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


def left_order(engine: Engine) -> dict[str, int]:
    return dict(engine.report()["disks"][0]["left_order"])


def sync_method(engine: Engine) -> str:
    return next((disk["sync"]["method"] for disk in engine.report()["disks"] if disk["sync"]), "")


@pytest.mark.parametrize(
    ("field", "change", "reason"), [("misses_seen", -3, "recursion-miss"), ("blind", 3, "unread-bio")]
)
def test_missed_calls_are_a_gap_and_a_comparison(lab: Lab, field: str, change: int, reason: str) -> None:
    engine, disk = ordered(lab)
    with RawWriter(disk.path, pause=0.001), pinned_state(engine.name) as state:
        state[field] = (int(state[field]) + change) % (1 << 32)  # as if three calls had done nothing
        wait_for(lambda: left_order(engine).get(reason) == 1, 20, engine.report)
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    lost = next(change for change in history(engine) if change["reason"] == reason)
    assert (lost["state"], lost["evidence"], lost["is_loss"]) == ("unknown", f"{reason} 3", True)
    lab.assert_equal(engine, [disk])
    kinds = lab.appliance.journalled(engine.name)
    assert kinds.count(FrameType.GAP) == 1, "the appliance must hear of it"
    assert kinds.index(FrameType.GAP) > kinds.index(FrameType.END)


def test_misses_while_nobody_is_connected_reach_the_next_appliance(lab: Lab) -> None:
    engine, disk = ordered(lab)
    engine.kill()
    with pinned_state(engine.name) as state:
        state["disk"][0]["trusted"] = 0  # noticed by an engine that was killed before it could say so
    engine.start()
    engine.wait_ordered()
    lab.assert_equal(engine, [disk])
    kinds = lab.appliance.journalled(engine.name)
    assert kinds[kinds.index(FrameType.END) :].count(FrameType.GAP) == 1


def test_pins_gone_are_named_and_compared(lab: Lab) -> None:
    engine, disk = ordered(lab)
    engine.kill()
    pins.remove(engine.name)
    engine.start()
    assert "the probe was taken out of the kernel while the engine was away" in engine.log()
    engine.wait_ordered()
    assert left_order(engine) == {"first-load": 1, "pins-gone": 1}
    lab.assert_equal(engine, [disk])


def test_another_layout_is_unloaded_and_compared(lab: Lab) -> None:
    engine, disk = ordered(lab)
    engine.kill()
    with pinned_state(engine.name) as state:
        state["layout"] = 999
    engine.start()
    assert "its layout is 999" in engine.log()
    engine.wait_ordered()
    lab.assert_equal(engine, [disk])


def test_a_comparison_that_was_killed_goes_on_comparing(lab: Lab) -> None:
    engine, disk = ordered(lab, 256 * MIB)
    with RawWriter(disk.path, longest=4 * MIB, pause=0) as writer:
        wait_for(lambda: writer.count > 100, 30)
    engine.wait_ordered()
    engine.kill()
    pins.remove(engine.name)
    engine.start()
    wait_for(lambda: sync_method(engine) == "compare", 30, engine.report)
    engine.kill()
    engine.start()
    assert "adopted" in engine.log()
    assert not engine.report()["disks"][0]["sync"] or sync_method(engine) == "compare"
    engine.wait_ordered()
    lab.assert_equal(engine, [disk])


def test_two_scenarios_on_one_disk_are_refused(lab: Lab) -> None:
    engine, disk = ordered(lab)
    second = lab.engine([disk.path], name=f"second-{os.getpid()}")
    done = second.ended()
    assert done.returncode == 5
    assert f"is watched by scenario {engine.name} already" in done.stderr
    assert not pins.folder(second.name).exists()
    assert engine.state() == "write-order"


def test_a_disk_that_becomes_another_is_an_alarm_and_then_compared(lab: Lab) -> None:
    engine, disk = ordered(lab)
    run("losetup", "--detach", disk.path)
    wait_for(lambda: engine.report()["health"] == "alarm", 10, engine.report)
    report = engine.report()
    assert (report["state"], report["disks"][0]["reason"]) == ("unknown", "removed")
    assert any("holds no medium" in alarm for alarm in report["alarms"])
    data = np.random.default_rng(3).bytes(MIB)
    with disk.file.open("r+b") as file:  # changed where nobody watched
        file.seek(5 * MIB)
        file.write(data)
    run("losetup", disk.path, disk.file)
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    assert left_order(engine)["removed"] == 1
    assert left_order(engine)["device-changed"] == 1
    assert not engine.report()["alarms"]
    lab.assert_equal(engine, [disk])


def test_a_disk_that_shrinks_is_an_alarm_until_it_is_back(lab: Lab) -> None:
    engine, disk = ordered(lab)
    os.truncate(disk.file, 32 * MIB)
    run("losetup", "--set-capacity", disk.path)
    wait_for(lambda: engine.state() == "unknown", 10, engine.report)
    assert engine.report()["health"] == "alarm"
    assert engine.report()["disks"][0]["reason"] == "shrunk"
    os.truncate(disk.file, 64 * MIB)
    run("losetup", "--set-capacity", disk.path)
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    assert engine.report()["health"] == "ok"
    lab.assert_equal(engine, [disk])


def test_a_disk_that_grows_is_followed_and_its_new_part_synced(lab: Lab) -> None:
    engine, disk = ordered(lab)
    with RawWriter(disk.path, pause=0.001):
        os.truncate(disk.file, 96 * MIB)
        run("losetup", "--set-capacity", disk.path)
        wait_for(lambda: left_order(engine).get("grown") == 1, 20, engine.report)
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    with open(disk.path, "r+b", buffering=0) as device:
        device.seek(90 * MIB)
        device.write(np.random.default_rng(4).bytes(MIB))
    assert engine.report()["disks"][0]["bytes"] == 96 * MIB
    assert left_order(engine).get("first-load") == 1
    lab.assert_equal(engine, [disk])
    assert lab.appliance.journalled(engine.name).count(FrameType.MARK) == 2


def test_a_disk_made_read_only_is_an_alarm(lab: Lab) -> None:
    engine, disk = ordered(lab)
    run("blockdev", "--setro", disk.path)
    try:
        wait_for(lambda: engine.report()["alarms"], 10, engine.report)
        assert "is read-only" in engine.report()["alarms"][0]
    finally:
        run("blockdev", "--setrw", disk.path)
    wait_for(lambda: not engine.report()["alarms"], 10, engine.report)
    assert engine.state() == "write-order"
