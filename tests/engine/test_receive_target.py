"""Disks that may be overwritten, and those that may not: real loop devices, file systems, swap."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from rha.engine.target import BUFFER_BYTES, Target
from rha.errors import DeviceError
from rha.wire.frames import BadFrame

pytestmark = pytest.mark.root
MIB = 1 << 20


def refusal(path: str) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        Target("disk", path)
    return caught.value


@contextlib.contextmanager
def taken(device: str) -> Iterator[Target]:
    target = Target("disk", device)
    yield target
    target.close()


def test_a_mounted_disk_is_refused(loop_device, mounted):
    device = loop_device(16 * MIB)
    point = mounted(device, "ext4")
    error = refusal(device)
    name = device.removeprefix("/dev/")
    assert (error.what, error.cause) == (f"{device} is in use", f"{name} is mounted on {point}")
    assert "rescue system" in error.hint


def test_a_disk_with_a_mounted_partition_is_refused(loop_device, mounted):
    device = loop_device(32 * MIB, "--partscan")
    subprocess.run(["sfdisk", "-q", device], input="label: gpt\nsize=16MiB\n", text=True, check=True)
    subprocess.run(["partx", "--update", device], check=True, capture_output=True)
    part = f"{device}p1"
    mounted(part, "ext4")
    assert f"{part.removeprefix('/dev/')} is mounted on" in refusal(device).cause


def test_swap_is_refused(loop_device):
    device = loop_device(16 * MIB)
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    subprocess.run(["swapon", device], check=True)
    try:
        assert refusal(device).cause == f"{device.removeprefix('/dev/')} is swap"
    finally:
        subprocess.run(["swapoff", device], check=True)


def test_nobody_takes_it_meanwhile(loop_device, tmp_path):
    device = loop_device(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    with taken(device):
        assert refusal(device).cause == "a program holds it alone"
        assert subprocess.run(["mount", device, str(tmp_path)], capture_output=True, check=False).returncode
    subprocess.run(["mount", device, str(tmp_path)], check=True)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_read_only_missing_and_no_device_at_all(loop_device, tmp_path):
    device = loop_device(MIB, "--read-only")
    assert refusal(device).what == f"{device} is read-only"
    assert "is missing" in refusal("/dev/none").what
    file = tmp_path / "file"
    file.touch()
    assert "is not a block device" in refusal(str(file)).what


def test_content_arrives_on_the_medium(loop_device):
    device = loop_device(4 * MIB)
    content = os.urandom(BUFFER_BYTES + 4096)
    with taken(device) as target:
        target.write(512, content)
        target.zero(512 + 8192, 4096)
        target.sync()
        assert bytes(target.read(512, 4096)) == content[:4096]
    wanted = bytearray(content)
    wanted[8192 : 8192 + 4096] = bytes(4096)
    with open(device, "rb") as file:
        file.seek(512)
        assert file.read(len(wanted)) == wanted


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (MIB, 512), (MIB - 512, 1024), (0, 0), (1, 512), (0, 100)])
def test_nothing_outside_the_disk(loop_device, offset, length):
    with taken(loop_device(MIB)) as target:
        for act in (target.read, target.zero, lambda at, size: target.write(at, bytes(size))):
            with pytest.raises(BadFrame, match="a range that the disk does not have"):
                act(offset, length)


def test_blocks_of_4096(loop_device):
    with taken(loop_device(MIB, "--sector-size", "4096")) as target:
        target.write(4096, bytes(4096))
        with pytest.raises(BadFrame):
            target.write(512, bytes(512))
