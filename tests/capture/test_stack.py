"""Which stacks can be followed: decided from sysfs folders as kernels show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.capture import stack


def folder(path: Path, **attributes: str) -> Path:
    """A whole disk's sysfs folder. Attributes by path, `__` for the slash; an empty text makes a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in attributes.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if text:
            file.write_text(text + "\n")
        else:
            file.mkdir(exist_ok=True)
    return path


def why_not_end(disk: Path, release: str = "6.1.0-50-amd64") -> str:
    error = stack.why_not_end("/dev/x", disk, release)
    return error.cause if error else ""


def why_not_begin(node: Path, disk: Path) -> str:
    error = stack.why_not_begin("/dev/x", node, disk)
    return error.cause if error else ""


def test_kinds_whose_writes_are_seen_to_end(tmp_path: Path) -> None:
    assert not why_not_end(folder(tmp_path / "sda", mq=""))
    assert not why_not_end(folder(tmp_path / "dm-0", dm__name="vg-lv"))
    assert not why_not_end(folder(tmp_path / "zram0", mm_stat="0"))
    for level in ("raid1", "raid10", "raid5", "raid6", "raid4"):
        assert not why_not_end(folder(tmp_path / level, md__level=level))


def test_an_unknown_driver_without_a_queue(tmp_path: Path) -> None:
    assert "neither device mapper, md nor zram" in why_not_end(folder(tmp_path / "nullb0", queue__iostats="1"))


def test_md_that_hands_its_bios_down(tmp_path: Path) -> None:
    for level in ("linear", "faulty"):
        assert "does not see how they end" in why_not_end(folder(tmp_path / level, md__level=level))
    error = stack.why_not_end("/dev/x", folder(tmp_path / "idle", md__array_state="clear"), "6.18.0")
    assert error is not None
    assert "level unknown" in error.what


@pytest.mark.parametrize(
    ("iostats", "release", "is_seen"),
    [("1", "6.1.0", True), ("0", "6.1.0", False), ("0", "6.5.13", False), ("0", "6.6.0", True), ("0", "6.18.4", True)],
)
def test_raid0_needs_its_statistics_before_6_6(tmp_path: Path, iostats: str, release: str, is_seen: bool) -> None:
    disk = folder(tmp_path / "md0", md__level="raid0", queue__iostats=iostats)
    error = stack.why_not_end("/dev/md0", disk, release)
    assert (error is None) == is_seen
    if error:
        assert error.hint == "echo 1 > /sys/block/md0/queue/iostats"


def test_bcache_above_and_below(tmp_path: Path) -> None:
    assert "bcache" in why_not_begin(top := folder(tmp_path / "bcache0"), top)
    assert "bcache" in why_not_begin(backing := folder(tmp_path / "sdb", bcache__state="clean"), backing)
    disk = folder(tmp_path / "sdc", sdc1__bcache__state="clean", sdc2="")
    assert "bcache" in why_not_begin(disk, disk), "a partition of it"
    assert "bcache" in why_not_begin(disk / "sdc1", disk)
    assert not why_not_begin(disk / "sdc2", disk), "its neighbour has nothing to do with it"


def test_a_path_of_request_based_multipath(tmp_path: Path) -> None:
    folder(tmp_path / "dm-3", mq="", dm__name="mpatha")
    folder(tmp_path / "dm-4", dm__name="vg-lv")
    path, volume = folder(tmp_path / "sda", holders=""), folder(tmp_path / "sdb", holders="")
    (path / "holders" / "dm-3").symlink_to(tmp_path / "dm-3")
    (volume / "holders" / "dm-4").symlink_to(tmp_path / "dm-4")
    error = stack.why_not_begin("/dev/sda", path, path)
    assert error is not None
    assert error.hint == "watch /dev/dm-3"
    assert not why_not_begin(volume, volume)


def test_dax(tmp_path: Path) -> None:
    assert "directly" in why_not_begin(disk := folder(tmp_path / "pmem0", queue__dax="1"), disk)
    assert not why_not_begin(disk := folder(tmp_path / "sda", queue__dax="0"), disk)


def test_kernel_version() -> None:
    assert stack.kernel_version("6.1.0-50-amd64") == (6, 1)
    assert stack.kernel_version("6.18") == (6, 18)
    assert stack.kernel_version("unknown") == (0, 0)
