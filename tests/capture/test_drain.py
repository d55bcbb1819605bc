"""The drain of a bio-based disk: by counters alone, whichever CPU counted, and whatever a failed drain left."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from rha.capture import drain, shared
from rha.capture.device import Device
from rha.errors import DeviceError, StateError


@pytest.fixture
def slot() -> np.ndarray:
    return np.zeros(1, shared.STATE)[0]["disk"][0]


@pytest.fixture
def counters() -> np.ndarray:
    """Of one disk, two CPUs."""
    return np.zeros(2, shared.COUNTERS)


def nothing() -> None:
    pass


def test_quiet_disk(slot: np.ndarray, counters: np.ndarray) -> None:
    counters["departed"][0], counters["arrived"][1] = (7, 4), (7, 4)  # ended on another CPU than it began
    drain.drain_flights("/dev/x", slot, counters, nothing)
    assert slot["epoch"] in (0, 1)


def test_waits_for_a_write_and_not_for_later_ones(slot: np.ndarray, counters: np.ndarray) -> None:
    counters["departed"][0][0] = 1
    waiting = threading.Event()
    thread = threading.Thread(target=drain.drain_flights, args=("/dev/x", slot, counters, waiting.set))
    thread.start()
    assert waiting.wait(10)
    assert slot["epoch"] == 1, "new writes count elsewhere"
    assert thread.is_alive()
    counters["arrived"][1][0] = 1
    thread.join(10)
    assert not thread.is_alive()


def test_an_earlier_drain_that_failed_left_its_writes_behind(slot: np.ndarray, counters: np.ndarray) -> None:
    slot["epoch"] = 1
    counters["departed"][0][0] = 3  # of the epoch before, still on their way
    waiting = threading.Event()
    thread = threading.Thread(target=drain.drain_flights, args=("/dev/x", slot, counters, waiting.set))
    thread.start()
    assert waiting.wait(10), "one turn would not have looked at them"
    counters["arrived"][0][0] = 3
    thread.join(10)
    assert not thread.is_alive()


def test_a_write_that_never_ends_is_named(
    slot: np.ndarray, counters: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_FLIGHT_SECONDS", 0.05)
    counters["departed"][1][0] = 2
    with pytest.raises(DeviceError, match="2 writes to /dev/x do not end"):
        drain.drain_flights("/dev/x", slot, counters, nothing)


def test_it_can_be_broken_off(slot: np.ndarray, counters: np.ndarray) -> None:
    def check() -> None:
        raise StateError("broken off")

    counters["departed"][1][0] = 2
    with pytest.raises(StateError, match="broken off"):
        drain.drain_flights("/dev/x", slot, counters, check)


def device(folder: Path, **attributes: str) -> Device:
    (folder / "queue").mkdir(parents=True)
    for name, text in attributes.items():
        (folder / name.replace("__", "/")).write_text(text)
    return Device("/dev/x", 1 << 20, 0, 8, 0, folder, folder / "queue")


def test_settled_once(slot: np.ndarray, tmp_path: Path) -> None:
    disk = device(tmp_path / "dm-0", queue__iostats="1\n", inflight="       0        0\n", dev="253:0")
    slot["unsettled_ns"] = 5
    assert drain.settle(disk, slot, nothing) == "idle for a moment, then "
    assert drain.settle(disk, slot, nothing) == ""
    slot["unsettled_ns"] = 6  # the probe could not keep a write
    assert drain.settle(disk, slot, nothing) == "idle for a moment, then "


def test_settling_without_statistics_takes_time(
    slot: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`inflight` of a disk that does not count is 0, whatever is on its way."""
    disk = device(tmp_path / "dm-0", queue__iostats="0\n", inflight="       0        0\n", dev="0:0")
    slot["unsettled_ns"] = drain.time.monotonic_ns()
    monkeypatch.setattr(drain, "_FLIGHT_SECONDS", 0.1)
    begun = drain.time.monotonic()
    assert drain.settle(disk, slot, nothing) == "0 s of time, then "
    assert drain.time.monotonic() - begun >= 0.1


def test_mount_point_of_btrfs_is_found_by_its_source(tmp_path: Path) -> None:
    """mountinfo shows btrfs under a number of its own."""
    mounts = tmp_path / "mountinfo"
    disk = device(tmp_path / "vda", dev="254:0")
    mounts.write_text(
        "30 1 0:30 / /mnt/with\\040blank rw shared:1 - btrfs /dev/null rw\n31 1 254:0 / /mnt/b rw - ext4 /dev/vda rw\n"
    )
    assert drain.mount_points(disk, mounts) == ["/mnt/b"], "/dev/null is no block device"
    mounts.write_text("30 1 0:30 / /mnt/a rw - btrfs none rw\n")
    assert drain.mount_points(disk, mounts) == []
