"""A first sync by medium: exported under load, carried, imported, compared; the image then is the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from proof.lab import MIB, RHA, Lab, environment, run, wait_for
from proof.writers import RawWriter

pytestmark = pytest.mark.root


def rha(lab: Lab, *words: object) -> subprocess.CompletedProcess[str]:
    command = [*RHA, *map(str, words)]
    return subprocess.run(
        command, env=environment(lab.folder / "run"), capture_output=True, text=True, timeout=120, check=False
    )


def refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "cause: " in done.stderr
    assert "Traceback" not in done.stderr


def key_of(lab: Lab) -> Path:
    key = lab.folder / "medium.key"
    key.write_bytes(os.urandom(32))
    return key


def medium_of(lab: Lab) -> Path:
    medium = lab.folder / "medium"
    medium.mkdir()
    return medium


def test_carried_and_compared(lab: Lab) -> None:
    disk, key, medium = lab.disk(160 * MIB), key_of(lab), medium_of(lab)
    with RawWriter(disk.path, longest=5 * MIB, pause=0) as writer:
        wait_for(lambda: writer.count > 60, 30)
    engine = lab.engine([disk.path], sync="offline")
    lab.appliance.start()
    engine.start()
    wait_for(lambda: engine.report()["connected"], 30, engine.report)
    with RawWriter(disk.path, pause=0.01, seed=2):
        done = rha(lab, "sync", "export", medium, "--scenario", engine.scenario_file, "--key-file", key)
        assert done.returncode == 0, done.stderr
        assert engine.state() != "write-order", "the engine did not wait for the medium"
        done = rha(lab, "sync", "import", medium, "--key-file", key)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    sent = engine.report()["disks"][0]["last_sync"]
    assert sent["method"] == "compare"
    assert 0 < sent["sent_bytes"] < 80 * MIB
    lab.assert_equal(engine, [disk])
    lab.appliance.start()
    refused(rha(lab, "sync", "import", medium, "--key-file", key), 9, "has images already")


def test_export_and_import_go_on_after_kills(lab: Lab) -> None:
    disk, key, medium = lab.disk(256 * MIB), key_of(lab), medium_of(lab)
    with open(disk.path, "wb", buffering=0) as node:
        for _ in range(disk.bytes // MIB):
            node.write(os.urandom(MIB))
        os.fsync(node.fileno())
    engine = lab.engine([disk.path], sync="offline")
    words = ["sync", "export", medium, "--scenario", engine.scenario_file, "--key-file", key]
    killed = subprocess.Popen([*RHA, *map(str, words)], env=environment(lab.folder / "run"))
    noted = medium / f"rha-{engine.name}/written.jsonl"
    wait_for(lambda: noted.exists() and noted.read_bytes().count(b"\n") >= 2, 60)
    killed.kill()
    killed.wait()
    lab.appliance.start()
    refused(rha(lab, "sync", "import", medium, "--key-file", key), 7, "is not complete")
    other = lab.folder / "other.key"
    other.write_bytes(os.urandom(32))
    refused(rha(lab, *words[:-1], other), 3, "the key does not open")
    done = rha(lab, *words)
    assert done.returncode == 0, done.stderr
    assert "went on with a broken export" in done.stdout

    importing = subprocess.Popen(
        [*RHA, "sync", "import", str(medium), "--key-file", str(key)],
        env=environment(lab.folder / "run"),
        stderr=subprocess.PIPE,
    )
    staging = lab.appliance.store / f".import-{engine.name}"
    wait_for(lambda: any(staging.glob("images/*")), 30)
    lab.appliance.kill()
    assert importing.communicate(timeout=30)[1]
    assert importing.returncode == 10, "the outcome is not known"
    assert not (lab.appliance.store / engine.name).exists()
    lab.appliance.start()
    done = rha(lab, "sync", "import", medium, "--key-file", key)
    assert done.returncode == 0, done.stderr
    assert not staging.exists()
    engine.start()
    engine.wait_ordered()
    assert engine.report()["disks"][0]["last_sync"]["sent_bytes"] == 0
    lab.assert_equal(engine, [disk])


def test_bad_media_change_nothing(lab: Lab) -> None:
    disk, key, medium = lab.disk(48 * MIB), key_of(lab), medium_of(lab)
    with RawWriter(disk.path, pause=0) as writer:
        wait_for(lambda: writer.count > 100, 30)
    engine = lab.engine([disk.path])
    assert rha(lab, "sync", "export", medium, "--scenario", engine.scenario_file, "--key-file", key).returncode == 0
    again = rha(lab, "sync", "export", medium, "--scenario", engine.scenario_file, "--key-file", key)
    refused(again, 9, "holds a complete export already")
    lab.appliance.start()
    refused(rha(lab, "sync", "import", medium), 3, "which key?")
    refused(rha(lab, "sync", "import", lab.folder, "--key-file", key), 7, "is not the medium of one scenario")
    manifest = medium / f"rha-{engine.name}/manifest.json"
    good = manifest.read_bytes()
    manifest.write_bytes(good.replace(b'"offset":0', b'"offset":8', 1))
    refused(rha(lab, "sync", "import", medium, "--key-file", key), 7, "was altered")
    manifest.write_bytes(good)
    part = next(medium.rglob("*.part"))
    saved = part.read_bytes()
    part.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    refused(rha(lab, "sync", "import", medium, "--key-file", key), 7, "was altered")
    part.write_bytes(saved)
    assert not (lab.appliance.store / engine.name).exists()
    assert rha(lab, "sync", "import", medium, "--key-file", key).returncode == 0


def test_a_store_without_room_is_refused_first(lab: Lab) -> None:
    disk, key, medium = lab.disk(96 * MIB), key_of(lab), medium_of(lab)
    with open(disk.path, "wb", buffering=0) as node:
        for _ in range(disk.bytes // MIB):
            node.write(os.urandom(MIB))
        os.fsync(node.fileno())
    engine = lab.engine([disk.path])
    assert rha(lab, "sync", "export", medium, "--scenario", engine.scenario_file, "--key-file", key).returncode == 0
    store = lab.folder / "store"
    store.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", store)
    try:
        lab.appliance.start()
        refused(rha(lab, "sync", "import", medium, "--key-file", key), 7, "the store is too small")
        lab.appliance.stop()
        assert not list(store.glob("*/images/*"))
    finally:
        lab.appliance.kill()
        run("umount", store)
    shutil.rmtree(store)
