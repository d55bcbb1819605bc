"""Bad input at the engine's door: error, cause and hint, a documented exit code, and nothing left in the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from proof.lab import MIB, Lab, run, wait_for
from rha.capture import pins
from rha.errors import Exit

pytestmark = pytest.mark.root


def refusal(lab: Lab, device: str, code: Exit, *words: str) -> None:
    engine = lab.engine([device])
    done = engine.ended()
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert "\ncause: " in done.stderr
    assert "\nhint: " in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not pins.folder(engine.name).exists()


def test_missing_device(lab: Lab) -> None:
    refusal(lab, "/dev/rha-no-such-disk", Exit.DEVICE, "missing")


def test_not_a_block_device(lab: Lab) -> None:
    refusal(lab, "/etc/hostname", Exit.DEVICE, "not a block device")


def test_read_only_device(lab: Lab) -> None:
    refusal(lab, lab.disk(16 * MIB, "--read-only").path, Exit.DEVICE, "read-only")


def test_device_smaller_than_its_file_system(lab: Lab) -> None:
    disk = lab.disk(32 * MIB)
    run("mkfs.ext4", "-q", disk.path)
    disk.sync()
    with disk.file.open("r+b") as file:
        file.truncate(16 * MIB)
    run("losetup", "--set-capacity", disk.path)
    refusal(lab, disk.path, Exit.DEVICE, "smaller than its file system")


def test_one_disk_twice(lab: Lab) -> None:
    disk = lab.disk(16 * MIB)
    link = lab.folder / "same"
    link.symlink_to(disk.path)
    engine = lab.engine([disk.path, str(link)])
    done = engine.ended()
    assert done.returncode == Exit.DEVICE, done.stderr
    assert "overlap" in done.stderr


def test_certificate_of_another_scenario_is_refused_and_said(lab: Lab) -> None:
    disk = lab.disk(16 * MIB)
    lab.appliance.start()
    engine = lab.engine([disk.path], name="mine", pair=lab.certificate("other"))
    engine.start()
    wait_for(lambda: "is not for scenario 'mine'" in engine.report()["why"], 20, engine.report)
    assert not engine.report()["connected"]
    assert not Path(lab.appliance.store / "mine").exists()


def test_nobody_listens(lab: Lab) -> None:
    engine = lab.engine([lab.disk(16 * MIB).path])
    engine.start()
    wait_for(lambda: "nobody listens" in engine.report()["why"], 20, engine.report)
    assert engine.report()["health"] != "ok"
