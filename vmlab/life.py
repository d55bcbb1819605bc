"""What happens to a device while it is watched: sectors that take no write, removal and return, growth and shrinking,
read-only, a device-mapper table that fails. Each time the state says so, with its reason, the other disks stay in write
order, and in the end every replica equals its disk.

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
BAD_SECTOR = 81920  # of the disk `bad`: 40 MiB from its start
SCENARIO = "life"
LOSS_SECONDS = 60.0

Say = Callable[[str], None]

# One write that is refused, as no request has room for so many pieces, and one that is accepted.
_NOT_WAITING = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
memory = mmap.mmap(-1, 1 << 20)
memory[:] = os.urandom(1 << 20)
pieces = [memoryview(memory)[at : at + 512] for at in range(0, 1 << 20, 4096)]
try:
    sys.exit(f"{os.pwritev(fd, pieces, 16 << 20, os.RWF_NOWAIT)} bytes in {len(pieces)} pieces were accepted")
except BlockingIOError:
    pass
if os.pwritev(fd, pieces[:1], 17 << 20, os.RWF_NOWAIT) != 512:
    sys.exit("one piece was not accepted")
"""


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
            disk.make(folder, "lv", 160 * MIB, "scsi"),  # carries a volume group
            disk.make(folder, "flaky", 64 * MIB, "scsi"),  # below a table that changes
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
        self._devices = {name: one.path for name, one in self._disks.items()}
        self._devices |= {"lv": "/dev/life/lv", "flaky": "/dev/mapper/flaky"}
        self._master: Master

    def play(self) -> dict[str, str]:
        """Every scene; after a failed one the rest is still tried."""
        self._machine.sh(f"vgcreate -qq -y life {self._disks['lv'].path}; lvcreate -qq -y -W n -L 64M -n lv life")
        self._machine.sh(f"dmsetup create flaky --table '{self._table('linear', '0')}'")
        for path in self._devices.values():
            self._machine.sh(f"dd if=/dev/urandom of={path} bs=1M count=24 oflag=direct status=none")
        self._site.start()
        self._master = self._site.protect(self._machine, SCENARIO, self._devices)
        if refused := self._master.refusals():
            return {f"protecting {name}": f"refused: {reason}" for name, reason in refused.items()}
        self._master.start()
        self._master.wait_ordered()
        return self._in_turn() | self._compare()

    def _in_turn(self) -> dict[str, str]:
        scenes: dict[str, Callable[[], None]] = {
            "zoned disk refused": self._zoned,
            "writes that must not wait": self._not_waiting,
            "write error": self._write_error,
            "read-only and back": self._read_only,
            "SCSI disk removed and back": lambda: self._removal("pulled"),
            "virtio disk removed and back": lambda: self._removal("hot"),
            "disk grown": lambda: self._growth("grown", self._lengthen_disk),
            "LV grown": lambda: self._growth(
                "lv", lambda: self._machine.run("lvextend", "-qq", "-y", "-L96M", "life/lv")
            ),
            "LV shrunk and back": self._shrinking,
            "dm-flakey fails writes": self._flakey,
            "dm-error fails everything": self._error,
        }
        found = {}
        for name, scene in scenes.items():
            try:
                scene()
                found[name] = "ok"
            except RhaError as error:
                found[name] = str(error).replace("\n", "; ")
            self._say(f"    {name}: {found[name]}")
        return found

    def _write(self, name: str, at_mib: int) -> None:
        path = self._devices[name]
        self._machine.sh(f"dd if=/dev/urandom of={path} bs=64k count=32 seek={at_mib * 16} oflag=direct status=none")

    def _demand_failing(self, name: str, block: int) -> None:
        """A write of 64 KiB there, which must fail."""
        words = ("bs=64k", "count=1", f"seek={block}", "oflag=direct", "status=none")
        answer = self._machine.call("dd", "if=/dev/urandom", f"of={self._devices[name]}", *words)
        _demand(answer.code != 0, f"a write to {name} that should fail went well")

    def _zoned(self) -> None:
        """Zone append lets the device choose the sector: refused before anything begins."""
        self._machine.sh("modprobe null_blk nr_devices=1 gb=1 zoned=1 zone_size=64 memory_backed=1")
        refused = self._site.protect(self._machine, "zoned", {"z": "/dev/nullb0"}).refusals()
        self._machine.sh("modprobe -r null_blk")
        _demand("zone" in refused.get("z", ""), f"a zoned disk is refused with {refused}")

    def _not_waiting(self) -> None:
        """What is too large for one request is refused by the kernel, and no loss; on device mapper it is one."""
        self._machine.put("/root/not-waiting.py", _NOT_WAITING.encode())
        for name, is_loss in (("grown", False), ("hot", False), ("lv", True)):
            self._machine.run("python3", "/root/not-waiting.py", self._devices[name])
            report = self._master.wait_ordered()
            losses = next(one["losses"] for one in report["disks"] if one["name"] == name)
            _demand(bool(losses) == is_loss, f"{name}: losses {losses}")

    def _write_error(self) -> None:
        """A write onto the bad sector fails; its range is dirty, is read again, and the disk is in order again."""
        self._demand_failing("bad", BAD_SECTOR // 128)
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

    def _lengthen_disk(self) -> None:
        self._machine.resize(self._disks["grown"], 96 * MIB)

    def _growth(self, name: str, grow: Callable[[], object]) -> None:
        """To 96 MiB: the new part is watched and synced, too."""
        grow()
        self._master.wait(f"{name}:grown:1", LOSS_SECONDS)
        self._master.wait_ordered()
        self._write(name, 80)
        report = self._master.wait_ordered()
        size = next(one["bytes"] for one in report["disks"] if one["name"] == name)
        _demand(size == 96 * MIB, f"status shows {size} bytes")

    def _shrinking(self) -> None:
        """The image is longer than the disk: unknown, alarm, until a person decides. Here it grows back."""
        self._machine.run("lvreduce", "-qq", "-y", "-f", "-L48M", "life/lv")
        self._master.wait("lv=unknown/shrunk", LOSS_SECONDS)
        _demand(self._master.report()["health"] == "alarm", "no alarm for a shrunken disk")
        self._machine.run("lvextend", "-qq", "-y", "-L96M", "life/lv")
        self._master.wait_ordered()
        self._write("lv", 60)
        self._master.wait_ordered()

    def _flakey(self) -> None:
        """Writes fail, reads do not."""
        self._load_table(self._table("flakey", "0 0 3600 1 error_writes"))
        self._demand_failing("flaky", 5)
        self._master.wait("flaky:write-error:1", LOSS_SECONDS)
        self._load_table(self._table("linear", "0"))
        self._master.wait_ordered()

    def _error(self) -> None:
        """Nothing can be read for the resync, either: an alarm, and no claim of order, until the device is well."""
        self._load_table(f"0 {self._sectors()} error")
        self._demand_failing("flaky", 9)
        self._master.wait("flaky:write-error:2", LOSS_SECONDS)
        self._master.wait("alarm", LOSS_SECONDS)
        states = {one["name"]: one["state"] for one in self._master.report()["disks"]}
        _demand(states["flaky"] != "write-order", "a disk that cannot be read is said to be in write order")
        self._load_table(self._table("linear", "0"))
        self._master.wait_ordered()
        self._master.wait("calm", LOSS_SECONDS)

    def _sectors(self) -> int:
        return self._disks["flaky"].file.stat().st_size // disk.SECTOR

    def _table(self, target: str, arguments: str) -> str:
        return f"0 {self._sectors()} {target} {self._disks['flaky'].path} {arguments}"

    def _load_table(self, table: str) -> None:
        self._machine.sh(f"dmsetup load flaky --table '{table}'; dmsetup suspend flaky; dmsetup resume flaky")

    def _compare(self) -> dict[str, str]:
        table = self._machine.run("dmsetup", "table", "life-lv").split()  # 0 SECTORS linear MAJOR:MINOR START
        _demand(table[2] == "linear" and len(table) == 5, f"the LV is in pieces: {table}")
        places = {name: (0, one.file.stat().st_size) for name, one in self._disks.items()}
        places["lv"] = (int(table[4]) * disk.SECTOR, int(table[1]) * disk.SECTOR)
        self._site.wait_applied(SCENARIO)
        self._master.stop()
        self._machine.power_off()
        self._site.stop()
        found = {}
        for name, place in places.items():
            why = why_not_equal(self._site.image(SCENARIO, name), self._disks[name].file, *place)
            found[f"replica of {name}"] = why or "ok"
        return found


def _demand(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise RhaError(otherwise)
