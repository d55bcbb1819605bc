"""On which disks a file lies, through whatever lies between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rha.capture.device import lookup
from rha.capture.location import devices_below, why_not_beside

Loop = Callable[..., str]
Mounted = Callable[..., Path]


def test_memory_is_no_disk() -> None:
    assert devices_below(Path("/dev/shm")) == []


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_file_system_on_a_loop_device(loop_device: Loop, mounted: Mounted, tmp_path: Path, kind: str) -> None:
    """And what carries the loop device's own file."""
    device = loop_device(128 << 20)
    point = mounted(device, kind)
    found = {below.path for below in devices_below(point)}
    assert found == {device} | {below.path for below in devices_below(tmp_path)}, "its own file lies somewhere, too"
    refusal = why_not_beside(point / "spool", [lookup(device)])
    assert refusal is not None
    assert device in refusal.cause
    assert why_not_beside(Path("/dev/shm/spool"), [lookup(device)]) is None


@pytest.mark.root
def test_partition_and_its_disk(loop_device: Loop, tmp_path: Path) -> None:
    """A file system on one partition: the whole disk is refused, another partition of it is not."""
    device = loop_device(64 << 20, "--partscan")
    table = "label: gpt\nsize=24MiB\nsize=24MiB\n"
    subprocess.run(["sfdisk", "-q", device], input=table, text=True, check=True, capture_output=True)
    subprocess.run(["partprobe", device], check=True)
    try:
        subprocess.run(["mkfs.ext4", "-qF", f"{device}p1"], check=True)
        point = tmp_path / "point"
        point.mkdir()
        subprocess.run(["mount", f"{device}p1", point], check=True)
        try:
            assert why_not_beside(point / "s", [lookup(device)]) is not None
            assert why_not_beside(point / "s", [lookup(f"{device}p1")]) is not None
            assert why_not_beside(point / "s", [lookup(f"{device}p2")]) is None
        finally:
            subprocess.run(["umount", point], check=True)
    finally:
        subprocess.run(["partx", "-d", device], check=True)


def test_missing_folder_is_said() -> None:
    refusal = why_not_beside(Path("/nowhere/at/all/spool"), [])
    assert refusal is not None
    assert "No such file" in refusal.cause


def test_file_system_that_does_not_say() -> None:
    """/proc stands for a file system of a type that nobody listed."""
    refusal = why_not_beside(Path("/proc/spool"), [])
    assert refusal is not None
    assert "type proc does not say" in refusal.cause
