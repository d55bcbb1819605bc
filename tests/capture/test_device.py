"""How long is the file system on a device? Asked of real ones, made on files; and devices that are none."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from rha.capture import device
from rha.errors import DeviceError

MIB = 1 << 20
HEAD = 1 << 17


def made(path: Path, size: int, *words: str) -> bytes:
    """The head of a file with a new file system."""
    with path.open("xb") as file:
        file.truncate(size)
    subprocess.run([*words, str(path)], check=True, capture_output=True)
    return path.read_bytes()[:HEAD]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["mkfs.ext2", "-F"], 8 * MIB),
        (["mkfs.ext4", "-F"], 64 * MIB),
        (["mkfs.ext4", "-F", "-O", "^64bit"], 64 * MIB),
        (["mkfs.ext4", "-F", "-b", "1024"], 33 * MIB),
        (["mkfs.xfs", "-f"], 320 * MIB),
        (["mkfs.btrfs", "-f"], 160 * MIB),
    ],
    ids=["ext2", "ext4", "ext4-32bit", "ext4-1k", "xfs", "btrfs"],
)
def test_length_of_a_real_file_system(tmp_path: Path, words: list[str], size: int) -> None:
    assert device.file_system_bytes(made(tmp_path / "fs", size, *words)) == size


def test_a_file_system_smaller_than_its_device(tmp_path: Path) -> None:
    head = made(tmp_path / "fs", 64 * MIB, "mkfs.ext4", "-F")
    subprocess.run(["resize2fs", str(tmp_path / "fs"), "32M"], check=True, capture_output=True)
    assert device.file_system_bytes(head) == 64 * MIB
    assert device.file_system_bytes((tmp_path / "fs").read_bytes()[:HEAD]) == 32 * MIB


def test_what_is_no_file_system_of_these(tmp_path: Path) -> None:
    assert device.file_system_bytes(bytes(HEAD)) == 0
    assert device.file_system_bytes(random.Random(1).randbytes(HEAD)) == 0
    assert device.file_system_bytes(made(tmp_path / "fs", 64 * MIB, "mkfs.vfat")) == 0


def test_a_head_cut_short_is_no_file_system(tmp_path: Path) -> None:
    for kind, size, words in (
        ("ext4", 64 * MIB, ["mkfs.ext4", "-F"]),
        ("xfs", 320 * MIB, ["mkfs.xfs", "-f"]),
        ("btrfs", 160 * MIB, ["mkfs.btrfs", "-f"]),
    ):
        head = made(tmp_path / kind, size, *words)
        for length in (0, 3, 4, 11, 1023, 1081, 2047, 0x10000, 0x10000 + 71):
            assert device.file_system_bytes(head[:length]) in (0, size)


def test_a_damaged_ext4_is_no_file_system(tmp_path: Path) -> None:
    """Its block size is an exponent: taken at its word it would be a number of half a gigabyte."""
    head = bytearray(made(tmp_path / "fs", 64 * MIB, "mkfs.ext4", "-F"))
    for exponent in (7, 64, 0xFFFFFFFF):
        head[1024 + 24 : 1024 + 28] = exponent.to_bytes(4, "little")
        assert device.file_system_bytes(bytes(head)) == 0


def test_missing_and_wrong_kinds(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is missing"):
        device.lookup(tmp_path / "none")
    with pytest.raises(DeviceError, match="is not a block device"):
        device.lookup("/dev/null")
    error = device.why_not(tmp_path)
    assert error is not None
    assert error.what == f"{tmp_path} is not a block device"
