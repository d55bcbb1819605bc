"""The master loses power: the image is a state its file system recovers from, with everything that was fsynced."""

import fcntl
import os
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab import MIB, Disk, Lab, run, wait_for
from writers import Records

pytestmark = pytest.mark.root

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2  # fs/ext4/ext4.h


def cut_power(folder: Path) -> None:
    """No more writes of this file system reach its disk, not even its journal."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


def recovered_numbers(stack: ExitStack, image: Path, folder: Path) -> set[int]:
    """Replays the journal on a copy of the image, checks it, and reads the records from it."""
    copy = folder / "copy.raw"
    run("qemu-img", "convert", "-O", "raw", image, copy)
    replay = subprocess.run(["e2fsck", "-E", "journal_only", "-y", copy], capture_output=True, check=False)
    assert replay.returncode in (0, 1), replay.stdout
    run("e2fsck", "-f", "-n", copy)
    point = folder / "recovered"
    point.mkdir()
    run("mount", "-o", "loop,ro", copy, point)
    stack.callback(run, "umount", point)
    return {int(line) for line in (point / "records").read_bytes().split(b"\n") if len(line) == 8}


def test_fsynced_records_survive(lab: Lab) -> None:
    disk: Disk = lab.disk(64 * MIB)
    folder = lab.mount(disk.path, "ext4")
    lab.appliance.start()
    engine = lab.engine([disk.path])
    engine.start()
    engine.wait_ordered()
    with pytest.raises(OSError, match="Input/output error"), Records(folder / "records") as writer:
        wait_for(lambda: writer.count > 1000, 30)
        engine.kill()
        cut_power(folder)
        writer.join()
    report = lab.appliance.report(engine.name)
    assert report["state"] == "consistent", report
    wait_for(lambda: lab.appliance.report(engine.name)["lag_bytes"] == 0, 20)
    point = lab.appliance.report(engine.name)["consistent"]
    lab.appliance.stop()
    with ExitStack() as stack:
        numbers = recovered_numbers(stack, lab.appliance.image(engine.name, "d0"), lab.folder)
        due = {number for number, time in writer.durable if time < point["time"]}
        assert len(due) > 500, f"{len(due)} of {len(writer.durable)} records are older than the consistent point"
        assert due <= numbers, f"lost: {sorted(due - numbers)[:10]}"
