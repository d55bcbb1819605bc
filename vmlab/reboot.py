"""A master that is restarted, in order and by a power cut: capture begins early and by itself, the disk is `unknown`
with the true reason, compared with its image, not copied, and in write order again; the replica equals the master.

`python -m vmlab reboot` prints what was found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rha.units import show_bytes
from vmlab import disk
from vmlab.machine import Machine
from vmlab.site import Master, Site, why_not_equal

MIB = 1 << 20
DISK_BYTES = 256 * MIB
FILLED_MIB = 120  # random bytes: a full copy would have to send them again
SCENARIO = "server"
MOUNT = "/srv"
FEW_BYTES = 40 * MIB  # what the journal may grow by at a comparison: the writer's part, not the disk's

Say = Callable[[str], None]


def run(say: Say = print) -> dict[str, str]:
    """Scene → "ok", or what was not as it must be. Five to eight minutes under TCG.

    Raises RhaError when the machine or the appliance does not do its part.
    """
    with tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp") as name:
        folder = Path(name)
        data = disk.make(folder, "data", DISK_BYTES, "virtio")
        with Site(folder) as site, Machine("server", folder, disks=[data], memory_mib=1280, cpus=2) as machine:
            say(f"booted in {machine.start():.0f} s")
            scene = _Scene(site, machine, data, say)
            scene.prepare()
            return {
                "clean reboot": scene.restart("reboot", machine.reboot),
                "power cut": scene.restart("unclean-shutdown", scene.cut_and_start),
                "replica": scene.compare(),
            }


class _Scene:
    """One server: a file system in fstab, a writer, the engine's unit enabled."""

    def __init__(self, site: Site, machine: Machine, data: disk.Disk, say: Say) -> None:
        self._site, self._machine, self._data, self._say = site, machine, data, say
        self._master: Master

    def prepare(self) -> None:
        """Fills the disk, protects it, and comes into write order."""
        path = self._data.path
        self._machine.sh(
            f"mkfs.ext4 -q {path}; echo '{path} {MOUNT} ext4 noatime 0 2' >>/etc/fstab; systemctl daemon-reload;"
            f" mount {MOUNT}; head -c {FILLED_MIB}M /dev/urandom >{MOUNT}/filled; sync"
        )
        self._site.start()
        self._master = self._site.protect(self._machine, SCENARIO, {"data": path}, "64MiB")
        self._machine.run("systemctl", "enable", "--now", self._master.unit)
        self._master.wait_ordered()
        self._say(f"in write order; {FILLED_MIB} MiB of the disk are used")

    def restart(self, reason: str, restart: Callable[[], float]) -> str:
        """Restarts the machine under load. "ok", or the first thing that is not as it must be."""
        self._write_on()
        seen, before = len(self._master.history()), self._journal_bytes()
        self._say(f"{reason}: back after {restart():.0f} s; {self._early()}")
        report = self._master.wait_ordered()
        grown = self._journal_bytes() - before
        changes = self._master.history()[seen:]
        path = " → ".join(f"{one['state']} ({one['reason']})" for one in changes)
        self._say(f"{reason}: {path}; the journal grew by {show_bytes(grown)}")
        return self._why_not(reason, changes, report, grown) or "ok"

    def _why_not(self, reason: str, changes: list[dict[str, Any]], report: dict[str, Any], grown: int) -> str | None:
        first = next((one for one in changes if one["state"] != "write-order"), None)
        if first is None or (first["state"], first["reason"]) != ("unknown", reason):
            return f"the disk should be unknown ({reason}) first, not {first}"
        if not report["disks"][0]["left_order"].get(reason):
            return f"status does not count {reason}: {report['disks'][0]['left_order']}"
        if not any("comparison" in one["why"] for one in changes):
            return f"no comparison in the history: {[one['why'] for one in changes]}"
        if grown > FEW_BYTES:
            return f"{show_bytes(grown)} were journalled: that is a copy, not a comparison"
        return None

    def cut_and_start(self) -> float:
        """The power goes while the writer writes."""
        self._machine.cut_power()
        return self._machine.start()

    def _write_on(self) -> None:
        """A writer that the restart meets at work."""
        words = f"--name=load --directory={MOUNT} --rw=randwrite --bsrange=4k-64k --size=8m --rate_iops=40 --fsync=8"
        self._machine.sh(f"systemd-run -q --collect --unit=lab-writer fio {words} --time_based --runtime=3600")
        self._machine.wait_until(f"test -e {MOUNT}/load.0.0", 60)
        self._machine.run("sleep", 3)

    def _journal_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._site.journal(SCENARIO).glob("*.journal"))

    def _early(self) -> str:
        """When capture began, beside what else happened in this boot; seconds since the kernel's start."""
        self._machine.wait_until(
            f"journalctl -q -o short-monotonic -u {self._master.unit} -b | grep -q 'the probe'", 120
        )
        lines = self._machine.sh(
            "for u in local-fs.target basic.target multi-user.target; do"
            " echo $u $(systemctl show --value -p ActiveEnterTimestampMonotonic $u); done;"
            f" echo engine $(systemctl show --value -p ExecMainStartTimestampMonotonic {self._master.unit});"
            f" journalctl -q -b -o short-monotonic -u {self._master.unit} | grep 'the probe' | tail -1"
        ).splitlines()
        times = {name: int(value) / 1e6 for name, value in (line.split() for line in lines[:4])}
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(times.items(), key=lambda one: one[1]))
        return f"{said}; capturing since {float(lines[4].split(']')[0].strip('[ ')):.1f} s"

    def compare(self) -> str:
        """Everything quiet: the disk's file against the replica. Ends machine and appliance."""
        self._machine.run("umount", MOUNT)
        self._master.wait_ordered()
        self._site.wait_applied(SCENARIO)
        self._master.stop()
        self._machine.power_off()
        self._site.stop()
        return why_not_equal(self._site.image(SCENARIO, "data"), self._data.file, 0, DISK_BYTES) or "ok"
