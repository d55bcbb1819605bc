"""A Debian machine under QEMU, protected by the product as it is installed: Debian's own kernel takes the probe."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rha.errors import StateError, VmError
from vmlab import disk
from vmlab.machine import Machine
from vmlab.site import Site, why_not_equal

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # under two minutes where nothing else runs; emulated

DISK_BYTES = 64 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp") as name:
        yield Path(name)


def test_replica_of_a_machine_with_debians_kernel_equals_its_disk(folder: Path) -> None:
    data = disk.make(folder, "data", DISK_BYTES, "virtio")
    with ExitStack() as stack:
        site = stack.enter_context(Site(folder))
        machine = stack.enter_context(Machine("master", folder, disks=[data], memory_mib=1024, cpus=2))
        machine.start()
        assert machine.run("uname", "-r").startswith("6.1.")
        machine.sh(f"mkfs.ext4 -q {data.path}; mount {data.path} /mnt/lab; cp -r /etc /mnt/lab/before")
        site.start()
        master = site.protect(machine, "smoke", {"data": data.path})
        master.start()
        master.wait_ordered()
        machine.sh("cp -r /etc /mnt/lab/after; rm -r /mnt/lab/before; umount /mnt/lab")
        report = master.wait_ordered()
        assert report["records"] > 0
        assert report["disks"][0]["losses"] == {}
        site.wait_applied("smoke")
        master.stop()
        site.stop()
        assert why_not_equal(site.image("smoke", "data"), data.file, 0, DISK_BYTES) is None
        _goes_on_after_a_rest(machine, folder)
        _commands_end_as_they_end(machine)


def _goes_on_after_a_rest(machine: Machine, folder: Path) -> None:
    machine.sh("echo remembered >/run/memory; sleep 600 >/dev/null 2>&1 & echo $! >/run/pid")
    boot = machine.get("/proc/sys/kernel/random/boot_id")
    machine.rest(folder / "memory")
    assert not machine.is_on
    machine.wake(folder / "memory")
    assert machine.get("/run/memory") == b"remembered\n"
    assert machine.get("/proc/sys/kernel/random/boot_id") == boot
    assert machine.call("bash", "-c", "kill $(cat /run/pid)").code == 0
    assert abs(float(machine.run("date", "+%s")) - time.time()) < 30


def _commands_end_as_they_end(machine: Machine) -> None:
    """In the same boot: emulated ones are too dear for a test each."""
    assert machine.call("sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert machine.call("sleep", 60, timeout=0.5).code is None
    with pytest.raises(VmError, match="exit 3"):
        machine.run("sh", "-c", "exit 3")
    machine.put("/root/some/file", b"\0\xff")
    assert machine.get("/root/some/file") == b"\0\xff"
    with pytest.raises(VmError, match="its last words"):
        machine.wait_until("echo its last words; false", 1)
    machine.cut_power()
    assert not machine.is_on
    with pytest.raises(StateError, match="is off"):
        machine.run("true")
