"""What lies below an overlay is what we put there, never what a guest's bytes say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rha.errors import RhaError
from rha.image import formats
from rha.vm.chain import in_ceph

FOREIGN = {"driver": "rbd", "pool": "p", "image": "i", "user": "admin", "conf": "/etc/shadow"}


def pretender(path: Path) -> Path:
    """A qcow2 that names an image in Ceph below it."""
    name = "json:" + json.dumps({"driver": "raw", "file": FOREIGN})
    words = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, str(path), "1M"]
    subprocess.run(words, check=True)
    return path


def test_files(tmp_path: Path) -> None:
    formats.create(tmp_path / "base.qcow2", 1 << 20)
    formats.overlay(tmp_path / "a.qcow2", tmp_path / "base.qcow2", "qcow2")
    assert in_ceph([tmp_path / "a.qcow2"]) == {}


def test_a_raw_image_that_looks_like_a_qcow2(tmp_path: Path) -> None:
    pretender(tmp_path / "disk.raw")
    formats.overlay(tmp_path / "a.qcow2", tmp_path / "disk.raw", "raw")
    assert in_ceph([tmp_path / "a.qcow2"]) == {}


def test_an_overlay_of_ours_is_believed(tmp_path: Path) -> None:
    """The cluster is asked for it, and there is none by that configuration."""
    with pytest.raises(RhaError):
        in_ceph([pretender(tmp_path / "a.qcow2")])
