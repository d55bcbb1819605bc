"""What is mounted here, as the kernel lists it."""

from __future__ import annotations

from rha.capture.mounts import Mount, parse


def test_strange_names() -> None:
    text = (
        "36 35 98:0 /sub /mnt/with\\040blänk rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        "40 35 0:46 / /data\\011 ro shared:7 master:1 - btrfs /dev/loop3 rw\n"
        "41 40 7:1 / /data/iso rw - iso9660 /dev/loop1 ro,relatime\n"
    )
    assert parse(text) == [
        Mount("98:0", "/mnt/with blänk", "ext3", "/dev/root", 36, True),
        Mount("0:46", "/data\t", "btrfs", "/dev/loop3", 40, True),
        Mount("7:1", "/data/iso", "iso9660", "/dev/loop1", 41, False),
    ]
