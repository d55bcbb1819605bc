"""Images on block devices of their own: whatever the device held, and only on the device that it was begun on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, NAME, Master, opened, wait_for
from stream import WRITE, record

from rha.appliance.config import Target
from rha.appliance.replica import Replica
from rha.errors import DeviceError, RhaError, StateError
from rha.image import formats
from rha.wire.frames import FrameType

pytestmark = pytest.mark.root
Loop = Callable[..., str]
CONTENT = bytes(range(256)) * (DISK_BYTES // 256)


def replica_on(folder: Path, device: str) -> Replica:
    return opened(folder, target=[Target(scenario=NAME, disk="d0", device=device)])


def read(device: str, length: int = DISK_BYTES) -> bytes:
    return subprocess.check_output(
        ["dd", f"if={device}", "iflag=direct,count_bytes", "bs=1M", f"count={length}", "status=none"]
    )


def refused(folder: Path, device: str) -> RhaError:
    """What a master is told that greets for the first time."""
    replica = replica_on(folder, device)
    try:
        with pytest.raises(RhaError) as refusal:
            Master(replica).greet("a" * 32, 8)
    finally:
        replica.close()
    return refusal.value


def synced(folder: Path, device: str) -> Replica:
    replica = replica_on(folder, device)
    master = Master(replica)
    assert [disk.need for disk in master.greet("a" * 32, 8).disks] == ["compare"], "nobody knows what it held"
    master.sync(CONTENT)
    wait_for(lambda: bool(replica._images.history.intervals))
    before = master.lsn
    master.data(FrameType.RECORDS, record(WRITE, 0, 8, 4096, b"\xee" * 4096))
    master.settle()
    assert replica.points.find(str(before)).lsn == before
    return replica


def test_the_image_is_the_device(tmp_path: Path, loop_device: Loop) -> None:
    device = loop_device(DISK_BYTES + (4 << 20))
    subprocess.run(["dd", "if=/dev/urandom", f"of={device}", "bs=1M", "oflag=direct"], capture_output=True, check=False)
    replica = synced(tmp_path, device)
    point = replica.points.open("now")
    replica.points.close(point.name)
    (spec,) = replica.give_up_images()
    overlay = tmp_path / "substitute.qcow2"
    formats.overlay(overlay, spec.path, spec.format)
    replica.close()
    wanted = CONTENT[:4096] + b"\xee" * 4096 + CONTENT[8192:]
    assert read(device) == wanted
    raw = tmp_path / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, raw], check=True)
    assert raw.read_bytes()[:DISK_BYTES] == wanted, "what a substitute boots from"


def test_it_goes_on_after_a_restart(tmp_path: Path, loop_device: Loop) -> None:
    device = loop_device(DISK_BYTES)
    synced(tmp_path, device).close()
    replica = replica_on(tmp_path, device)
    assert replica.why_not_consistent() is None
    assert replica.read_image(0, 4096, 4096) == b"\xee" * 4096
    replica.close()


def test_another_device_under_the_same_name(tmp_path: Path, loop_device: Loop) -> None:
    link = tmp_path / "by-name"
    link.symlink_to(loop_device(DISK_BYTES))
    synced(tmp_path / "store", str(link)).close()
    link.unlink()
    other = loop_device(DISK_BYTES)
    link.symlink_to(other)
    with pytest.raises(DeviceError, match="is another device"):
        replica_on(tmp_path / "store", str(link))
    assert read(other) == bytes(DISK_BYTES)


def test_too_small(tmp_path: Path, loop_device: Loop) -> None:
    assert "is too small" in refused(tmp_path, loop_device(DISK_BYTES - 4096)).what


def test_in_use(tmp_path: Path, loop_device: Loop, mounted: Callable[..., Path]) -> None:
    device = loop_device(64 << 20)
    (mounted(device, "ext4") / "precious").write_text("x")
    assert refused(tmp_path / "store", device).cause == "it is mounted, or a part of something else"


def test_missing_or_no_device(tmp_path: Path) -> None:
    assert isinstance(refused(tmp_path / "1", "/dev/nowhere"), DeviceError)
    assert "is not a block device" in refused(tmp_path / "2", "/dev/null").what


def test_a_scenario_that_has_its_image_in_a_file(tmp_path: Path, loop_device: Loop) -> None:
    """The other way round it is the missing file that is told."""
    replica = opened(tmp_path)
    master = Master(replica)
    master.greet("a" * 32, 8)
    master.sync(CONTENT)
    replica.close()
    device = loop_device(DISK_BYTES)
    with pytest.raises(StateError, match="does not hold the image"):
        replica_on(tmp_path, device)
    assert read(device) == bytes(DISK_BYTES)
