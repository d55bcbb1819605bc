"""What became of a device, from what the kernel shows."""

from __future__ import annotations

from pathlib import Path

from rha.capture.device import Device
from rha.engine.life import Seen, life_of, look

DISK = Device("/dev/sdb", 8 << 20 | 16, 0, 4096, 7, Path("/sys/x"), Path("/sys/x/queue"))


def test_every_kind_of_life() -> None:
    assert life_of(DISK, 4096, Seen(DISK)) == ("well", "")
    assert life_of(DISK, 2048, Seen(DISK)) == ("grown", "/dev/sdb: 1 MiB are now 2 MiB")
    assert life_of(DISK, 8192, Seen(DISK)) == ("shrunk", "/dev/sdb: 4 MiB are now 2 MiB")
    assert life_of(DISK, 4096, Seen(DISK._replace(diskseq=8))).kind == "replaced"
    assert life_of(DISK, 4096, Seen(DISK._replace(sectors=0, diskseq=8))).kind == "removed"
    assert life_of(DISK, 4096, Seen(None, why="No such file")) == ("removed", "/dev/sdb: No such file")
    assert life_of(DISK, 4096, Seen(DISK, is_read_only=True)).kind == "read-only"


def test_looking_at_nothing_says_why() -> None:
    assert look("/dev/no-such-device") == Seen(None, why="No such file or directory")
    assert look("/dev/null").why == "wrong kind of file"
