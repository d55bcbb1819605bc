"""What happens when something dies, is cut or overflows: nothing lost, nothing silent, always something bootable."""

from __future__ import annotations

import random
import time

import pytest

from proof import filesystems
from proof.lab import MIB, Lab, run, wait_for
from proof.proxy import Proxy
from proof.writers import FileWriter, RawWriter, Records
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root

KILLS = 5
# Some 6 MB/s: a ring of 64 MiB then lasts for ten seconds without an engine, which starts in less beside other loads.
GENTLE = 0.01


def test_killed_engine_goes_on_without_a_sync(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    draw = random.Random(7)
    with RawWriter(disk.path, pause=GENTLE):
        for _ in range(KILLS):
            time.sleep(draw.random() * 0.3)
            engine.kill()
            time.sleep(draw.random() * 0.3)
            engine.start()
            wait_for(lambda: engine.state() == "write-order", 30, engine.report)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    kinds = lab.appliance.journalled(engine.name)
    assert kinds.count(FrameType.MARK) == 1, "a restart must not sync again"
    assert kinds.count(FrameType.GAP) == 0


def test_killed_appliance_redoes_and_keeps_what_it_acknowledged(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    draw = random.Random(8)
    with RawWriter(disk.path, pause=GENTLE):
        for _ in range(KILLS):
            time.sleep(0.3 + draw.random() * 0.5)
            lab.appliance.kill()
            lab.appliance.start()
            wait_for(lambda: engine.report()["connected"], 40, engine.report)
    assert engine.losses() == {}
    lab.assert_equal(engine, [disk])
    assert lab.appliance.journalled(engine.name).count(FrameType.MARK) == 1


def test_cut_link_resumes_by_lsn(lab: Lab) -> None:
    disk = lab.disk(64 * MIB)
    lab.appliance.start()
    with Proxy(lab.port) as proxy, RawWriter(disk.path, pause=GENTLE):
        engine = lab.engine([disk.path], port=proxy.port)
        engine.start()
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
        draw = random.Random(9)
        for _ in range(10):
            time.sleep(draw.random() * 0.4)
            proxy.cut()
        wait_for(lambda: engine.state() == "write-order" and engine.report()["connected"], 60, engine.report)
        assert engine.losses() == {}
    # The proxy is gone with its block: another engine process, straight to the appliance, adopts the probe.
    engine.kill()
    engine.scenario_file.write_text(engine.scenario_file.read_text().replace(str(proxy.port), str(lab.port)))
    engine.start()
    lab.assert_equal(engine, [disk])
    assert proxy.cuts >= 5


def test_overflow_keeps_a_bootable_point_and_syncs_by_itself(lab: Lab) -> None:
    disk = lab.disk(128 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], ring="4MiB")
    engine.start()
    engine.wait_ordered()
    lab.appliance.wait_applied(engine.name)
    guarded = []

    def look() -> bool:
        report = lab.appliance.report(engine.name)
        if report["state"] == "inconsistent":
            guarded.append(report)
        return len(guarded) > 10

    with RawWriter(disk.path, longest=4 * MIB, pause=0.0):
        wait_for(lambda: engine.losses().get("ring-full", 0) > 0, 60, engine.report)
        wait_for(look, 60, "the appliance must say that the images are not consistent")
    assert all(one["consistent"] for one in guarded), "a consistent point must stay"
    assert all("stays bootable" in one["why"] for one in guarded)
    lab.assert_equal(engine, [disk])
    assert not list((lab.appliance.store / engine.name / "images").glob("*.sync.qcow2"))


def test_every_fsynced_record_before_the_point_survives_the_loss(lab: Lab) -> None:
    """The appliance's own claim, held against the writer's log and the file system's own check."""
    disk = lab.disk(96 * MIB)
    folder = lab.mount(disk.path, "ext4")
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    records = Records(folder / "records")
    with FileWriter(folder, pause=0.01), records:
        wait_for(lambda: len(records.durable) > 500, 60)
        engine.kill()
    lab.appliance.wait_applied(engine.name)
    moment = lab.appliance.report(engine.name)["consistent"]["time"]
    lab.appliance.stop()
    copy = lab.memory / f"{engine.name}-copy.raw"
    lab.stack.callback(copy.unlink, missing_ok=True)
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(engine.name, "d0"), copy)
    run("umount", folder)
    with filesystems.opened("ext4", copy, lab.folder / "copy") as point:
        found = [int(line) for line in (point / "records").read_text().splitlines()]
    run("e2fsck", "-fn", copy)
    promised = [number for number, when in records.durable if when <= moment]
    assert promised, "nothing was promised: the test proves nothing"
    assert found[: len(promised)] == promised
    assert found == list(range(len(found))), "records out of order"
