"""A spool on the very disk that is protected: its writes do not feed it, and no write of any other file is missed, even
when the spool's blocks become another file's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from proof.filesystems import KINDS, loop, mounted
from proof.lab import MIB, Disk, Engine, Lab, run, wait_for
from proof.proxy import Proxy
from proof.writers import FileWriter

pytestmark = pytest.mark.root


def started(
    lab: Lab, disk: Disk, folder: Path, size: str = "64MiB", port: int | None = None, ring: str = "4MiB"
) -> Engine:
    more = f'[spool]\npath = "{folder}/spool"\nsize = "{size}"\n'
    engine = lab.engine([disk.path], ring=ring, port=port, link='lost_after = "1s"\n', more=more)
    lab.appliance.start()
    engine.start()
    engine.wait_ordered()
    assert engine.report()["alarms"] == []
    return engine


def digests(folder: Path) -> dict[str, str]:
    """Of every file but the spool, whose content the image does not follow."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "spool")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def image_digests(lab: Lab, engine: Engine, kind: str) -> dict[str, str]:
    """The files in the image once its journal is replayed, as after a power cut; then the file system's own check. The
    appliance must not run."""
    copy, point = lab.memory / f"{engine.name}-copy.raw", lab.folder / "copy"
    lab.stack.callback(copy.unlink, missing_ok=True)
    run("qemu-img", "convert", "-O", "raw", lab.appliance.image(engine.name, "d0"), copy)
    with loop(copy) as device:
        with mounted(device, point, "rw"):
            found = digests(point)
        run(*KINDS[kind].check, device)
    return found


def drop_spool(engine: Engine) -> None:
    text = engine.scenario_file.read_text()
    engine.scenario_file.write_text(text[: text.index("[spool]")])


def fill(folder: Path) -> None:
    """Writes files until nothing fits any more: every free block is used."""
    for number in range(1000):
        try:
            with (folder / f"fill-{number}").open("wb") as file:
                file.write(os.urandom(4 * MIB))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_outage_with_the_spool_on_the_protected_disk(lab: Lab, kind: str) -> None:
    disk = lab.disk(512 * MIB)
    folder = lab.mount(disk.path, kind)
    with Proxy(lab.port) as proxy:
        # A second of the writer fits into the half that is free when spooling begins: a busy host is no loss of order.
        engine = started(lab, disk, folder, "128MiB", proxy.port, ring="16MiB")
        proxy.refuses = True
        proxy.cut()
        with FileWriter(folder, pause=0.01):
            wait_for(lambda: engine.report()["spool"]["used_bytes"] > 32 * MIB, 60, engine.report)
        os.sync()  # how long an engine takes to start is the host's affair: the ring must not fill meanwhile
        engine.kill()
        engine.start()
        assert "adopted the probe" in engine.log()
        time.sleep(6)  # the last of the file system's own writes
        before = engine.report()["lag_bytes"]
        time.sleep(3)
        assert engine.report()["lag_bytes"] - before < MIB, "the spool feeds itself"
        proxy.refuses = False
        wait_for(lambda: engine.report()["connected"] and engine.report()["lag_bytes"] == 0, 90, engine.report)
        assert engine.losses() == {}
        answer = engine.verify()
        assert answer["equal"], answer
        assert "(but for the spool of 1" in answer["sentence"]
    lab.appliance.wait_applied(engine.name)
    engine.stop()
    lab.appliance.stop()
    here = digests(folder)
    run("umount", folder)
    assert image_digests(lab, engine, kind) == here


def test_blocks_of_a_deleted_spool_are_not_missed(lab: Lab) -> None:
    """The engine is killed, the spool deleted, and its blocks written by others before the probe stops sparing them."""
    disk = lab.disk(192 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = started(lab, disk, folder, "96MiB")
    engine.kill()
    (folder / "spool").unlink()
    run("sync", "-f", folder)
    fill(folder)
    run("umount", folder)
    drop_spool(engine)
    engine.start()
    wait_for(lambda: engine.state() == "write-order" and engine.report()["lag_bytes"] == 0, 60, engine.report)
    assert engine.report()["disks"][0]["left_order"].get("spool-moved") == 1, engine.report()
    lab.assert_equal(engine, [disk])


def test_spool_deleted_below_a_living_engine(lab: Lab) -> None:
    disk = lab.disk(192 * MIB)
    folder = lab.mount(disk.path, "ext4")
    engine = started(lab, disk, folder, "96MiB")
    (folder / "spool").unlink()
    wait_for(lambda: any("was deleted" in alarm for alarm in engine.report()["alarms"]), 20, engine.report)
    fill(folder)
    engine.wait_ordered()
    engine.stop()  # lets go of the file, so that its blocks are free
    fill(folder)
    run("umount", folder)
    drop_spool(engine)
    engine.start()
    lab.assert_equal(engine, [disk])


def test_compressed_copy_on_write_is_refused(lab: Lab) -> None:
    disk = lab.disk(256 * MIB)
    folder = lab.mount(disk.path, "btrfs")
    engine = lab.engine([disk.path], more=f'[spool]\npath = "{folder}/spool"\nsize = "32MiB"\n')
    lab.appliance.start()
    engine.start()
    wait_for(lambda: engine.report().get("alarms"), 20, engine.report)
    assert any("btrfs may write over a block somewhere else" in alarm for alarm in engine.report()["alarms"])
    assert not (folder / "spool").exists()
    subprocess.run(["umount", folder], check=True)
