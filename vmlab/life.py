"""What happens to a device while it is watched: sectors that take no write, removal and return, growth, read-only. Each
time the state says so, with its reason, the other disks stay in write order, and in the end every replica equals its
disk.

`python -m vmlab life` prints what was found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from rha.errors import RhaError
from vmlab import disk
from vmlab.machine import Machine
from vmlab.site import Master, Site, why_not_equal

MIB = 1 << 20
BAD_SECTOR = 40960  # of the disk `bad`: 20 MiB from its start
SCENARIO = "life"
LOSS_SECONDS = 60.0

Say = Callable[[str], None]


def run(say: Say = print) -> dict[str, str]:
    """Scene → "ok", or what was not as it must be. Five to ten minutes under TCG.

    Raises RhaError when the machine or the appliance does not do its part.
    """
    with tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp") as name:
        folder = Path(name)
        disks = [
            disk.make(folder, "bad", 64 * MIB, "scsi", bad_sectors=(BAD_SECTOR,)),
            disk.make(folder, "pulled", 64 * MIB, "scsi"),
            disk.make(folder, "grown", 64 * MIB, "scsi"),
        ]
        hot = disk.make(folder, "hot", 64 * MIB, "virtio")
        with Site(folder) as site, Machine("life", folder, disks=disks, memory_mib=1280, cpus=2) as machine:
            say(f"booted in {machine.start():.0f} s")
            machine.attach(hot)
            return _Scenes(site, machine, [*disks, hot], say).play()


class _Scenes:
    """One scenario over all the disks; the scenes in turn."""

    def __init__(self, site: Site, machine: Machine, disks: list[disk.Disk], say: Say) -> None:
        self._site, self._machine, self._disks, self._say = site, machine, {one.name: one for one in disks}, say
        self._master: Master

    def play(self) -> dict[str, str]:
        """Every scene; after a failed one the rest is still tried."""
        for one in self._disks.values():
            self._machine.sh(f"dd if=/dev/urandom of={one.path} bs=1M count=24 oflag=direct status=none")
        self._site.start()
        devices = {name: one.path for name, one in self._disks.items()}
        self._master = self._site.protect(self._machine, SCENARIO, devices)
        self._master.start()
        self._master.wait_ordered()
        scenes: dict[str, Callable[[], None]] = {
            "write error": self._write_error,
            "read-only and back": self._read_only,
            "SCSI disk removed and back": lambda: self._removal("pulled"),
            "virtio disk removed and back": lambda: self._removal("hot"),
            "disk grown": self._growth,
        }
        found = {}
        for name, scene in scenes.items():
            try:
                scene()
                found[name] = "ok"
            except RhaError as error:
                found[name] = str(error).replace("\n", "; ")
            self._say(f"    {name}: {found[name]}")
        return found | self._compare()

    def _write(self, name: str, at_mib: int) -> None:
        path = self._disks[name].path
        self._machine.sh(f"dd if=/dev/urandom of={path} bs=64k count=32 seek={at_mib * 16} oflag=direct status=none")

    def _write_error(self) -> None:
        """A write onto the bad sector fails; its range is dirty, is read again, and the disk is in order again."""
        path, at = self._disks["bad"].path, BAD_SECTOR // 128
        answer = self._machine.call(
            "dd", "if=/dev/urandom", f"of={path}", "bs=64k", "count=1", f"seek={at}", "oflag=direct"
        )
        _demand(answer.code != 0, "the write onto a bad sector went well")
        self._master.wait("bad:write-error:1", LOSS_SECONDS)
        self._master.wait_ordered()
        self._write("bad", 30)
        self._master.wait_ordered()

    def _read_only(self) -> None:
        """An alarm while it lasts; the order is not lost by it."""
        path = self._disks["grown"].path
        self._machine.run("blockdev", "--setro", path)
        alarms = self._master.wait("alarm", LOSS_SECONDS)["alarms"]
        _demand("read-only" in alarms[0], f"the alarm says {alarms}")
        self._machine.run("blockdev", "--setrw", path)
        self._master.wait("calm", LOSS_SECONDS)
        self._write("grown", 8)
        report = self._master.wait_ordered()
        _demand(report["health"] == "ok", f"health is {report['health']} afterwards")

    def _removal(self, name: str) -> None:
        """Gone: unknown, and said so; the others go on. Back: compared, and in order again."""
        one = self._disks[name]
        self._machine.detach(one)
        self._master.wait(f"{name}=unknown/removed", LOSS_SECONDS)
        self._write("grown", 12)
        report = self._master.report()
        others = {disk["name"]: disk["state"] for disk in report["disks"] if disk["name"] != name}
        _demand(set(others.values()) == {"write-order"}, f"the other disks are {others}")
        _demand(report["health"] == "alarm", f"health is {report['health']} without the disk")
        self._machine.attach(one)
        self._master.wait_ordered()
        self._write(name, 12)
        self._master.wait_ordered()

    def _growth(self) -> None:
        """The new part is watched and synced, too."""
        self._machine.resize(self._disks["grown"], 96 * MIB)
        self._master.wait("grown:grown:1", LOSS_SECONDS)
        self._master.wait_ordered()
        self._write("grown", 80)
        report = self._master.wait_ordered()
        size = next(one["bytes"] for one in report["disks"] if one["name"] == "grown")
        _demand(size == 96 * MIB, f"status shows {size} bytes")

    def _compare(self) -> dict[str, str]:
        self._master.wait_applied()
        self._master.stop()
        self._machine.power_off()
        self._site.stop()
        found = {}
        for name, one in self._disks.items():
            why = why_not_equal(self._site.image(SCENARIO, name), one.file, 0, one.file.stat().st_size)
            found[f"replica of {name}"] = why or "ok"
        return found


def _demand(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise RhaError(otherwise)
