"""What memory holds of a disk is on it afterwards: a real ext4 on a loop device, its backing file read by debugfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proof.lab import Disk, run
from rha.capture.device import lookup
from rha.capture.flush import flush
from rha.capture.location import mounts_over

pytestmark = pytest.mark.root


class Mounted:
    def __init__(self, stack: ExitStack, folder: Path, name: str) -> None:
        self.disk = Disk(stack, folder / f"{name}.raw", 32 << 20)
        run("mkfs.ext4", "-q", self.disk.path)
        self.point = folder / name
        self.point.mkdir()
        run("mount", self.disk.path, self.point)
        stack.callback(subprocess.run, ["umount", str(self.point)], check=True)

    def write(self, content: bytes) -> None:
        """Not synced: ext4 would put it on the disk seconds later."""
        (self.point / "file").write_bytes(content)

    def on_disk(self) -> bytes:
        words = ["debugfs", "-R", "cat /file", str(self.disk.file)]
        return subprocess.run(words, capture_output=True, check=False).stdout


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_file_systems_and_their_files(stack: ExitStack, tmp_path: Path) -> None:
    mine, other = Mounted(stack, tmp_path, "mine and only mine"), Mounted(stack, tmp_path, "other")
    content = os.urandom(1 << 20)
    for one in (mine, other):
        one.write(content)
    device = lookup(mine.disk.path)
    assert mine.on_disk() != content
    assert mounts_over([device]) == [str(mine.point)]
    said = flush([device])
    assert said == [f"written out: {mine.point}, {device.path}", f"frozen for a moment: {mine.point}"]
    assert mine.on_disk() == content
    mine.write(b"it is thawed")
