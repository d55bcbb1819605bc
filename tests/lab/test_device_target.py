"""The image on a block device of its own, on the real path: an old device full of something else becomes the disk."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from proof.lab import MIB, Disk, Lab, run

pytestmark = pytest.mark.root
NAME = "on-device"


def test_the_device_becomes_the_disk() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-lab-")))
        disk, device = (Disk(stack, folder / f"{name}.raw", 64 * MIB).path for name in ("disk", "device"))
        run("dd", "if=/dev/urandom", f"of={device}", "bs=1M", "count=64", "oflag=direct", "status=none")
        settings = f'[[target]]\nscenario = "{NAME}"\ndisk = "d0"\ndevice = "{device}"\n'
        lab = Lab(folder, Path("/dev/shm"), stack, settings=settings)
        mnt = lab.mount(disk, "ext4")
        engine = lab.engine([disk], name=NAME)
        lab.appliance.start()
        engine.start()
        engine.wait_ordered()
        run("dd", "if=/dev/urandom", f"of={mnt / 'file'}", "bs=64k", "count=200", "conv=fsync", "status=none")
        run("umount", mnt)
        engine.wait_ordered()
        assert engine.verify()["equal"]
        lab.appliance.wait_applied(NAME)
        engine.stop()
        lab.appliance.stop()
        run("cmp", disk, device)
