"""Where the demo's things are, and the files that a user would write by hand: pki, appliance.toml, scenario.toml."""

from __future__ import annotations

import socket
from pathlib import Path

from demo.disk import MasterDisk
from demo.product import rha

ROOT = Path(__file__).resolve().parent.parent
SCENARIO = "demo"

# Not in the source tree: QEMU runs as a user of its own, which cannot look into /root.
WORK = Path("/var/lib/rha-demo")

APPLIANCE = """\
listen = "127.0.0.1:{port}"
store = "{work}/store"
ca = "{work}/pki/ca.pem"
certificate = "{work}/pki/appliance-backup.pem"
key = "{work}/pki/appliance-backup.key"
scripts = "{work}/scripts"
run_dir = "{work}/run"
"""

SCENARIO_FILE = """\
name = "{scenario}"
mode = "ha"

[[disk]]
name = "root"
device = "{device}"

[appliance]
address = "127.0.0.1:{port}"
ca = "{work}/pki/ca.pem"
certificate = "{work}/pki/master-{scenario}.pem"
key = "{work}/pki/master-{scenario}.key"

[capture]
ring = "128MiB"

[link]
heartbeat = "500ms"
lost_after = "3s"

# The appliance believes in the master's death when the link is silent and its database does not answer.
[[check]]
kind = "tcp"
address = "127.0.0.1:{master_port}"
timeout = "1s"
attempts = 2
interval = "500ms"

# Before the substitute boots the master must be off for certain. This one's "power" is its disk and its processes.
[[fence]]
kind = "script"
run = "cut-power"

[vm]
memory = "1GiB"
cpus = 2
ready_timeout = "4min"

[vm.ready]
kind = "tcp"
address = "127.0.0.1:{substitute_port}"

# The image was made for this: every bus is in its initramfs, and its network takes any card.
[vm.guest]
adapt = "no"

[vm.network]
kind = "user"

[[vm.network.forward]]
host = "127.0.0.1"
host_port = {substitute_port}
guest_port = 5432
"""


# The fence: no process has the master's files open any more, and its disk is detached. Exit code 0 says: certainly so.
FENCE = """\
#!/bin/sh
[ "$RHA_ACT" = check ] && exit 0
if mountpoint -q "{mount_point}"; then
    fuser -M -s -k -KILL -m "{mount_point}"
    umount --lazy "{mount_point}" || exit 1
fi
for device in $(losetup --noheadings --output NAME --associated "{image}"); do
    losetup --detach "$device" || exit 1
done
echo "{image} is no disk any more, and no process of the master runs"
"""


class Setting:
    """Paths and ports of one run. `logs` stays after the end, `work` does not."""

    def __init__(self, work: Path = WORK, logs: Path = ROOT / "build" / "demo") -> None:
        self.work, self.logs = work, logs
        self.run_dir, self.store = work / "run", work / "store"
        self.scenario_file, self.appliance_file = work / "scenario.toml", work / "appliance.toml"
        self.master_port, self.appliance_port, self.substitute_port = free_ports(3)

    def write(self, disk: MasterDisk) -> None:
        """Makes certificates, both files and the fence of the master's disk. Raises RhaError when `rha pki` refuses."""
        for directory in (self.run_dir, self.store, self.work / "scripts"):
            directory.mkdir()
        pki = str(self.work / "pki")
        rha("pki", "init", pki, "--name", "rha demo")
        rha("pki", "issue", "appliance", "backup", "--dir", pki, "--address", "127.0.0.1")
        rha("pki", "issue", "master", SCENARIO, "--dir", pki)
        words = {"work": self.work, "port": self.appliance_port, "scenario": SCENARIO, "device": disk.device}
        self.appliance_file.write_text(APPLIANCE.format(**words))
        fence = self.work / "scripts" / "cut-power"
        fence.write_text(FENCE.format(mount_point=disk.mount_point, image=disk.image))
        for path in (fence.parent, fence):
            path.chmod(0o755)
        ports = {"master_port": self.master_port, "substitute_port": self.substitute_port}
        self.scenario_file.write_text(SCENARIO_FILE.format(**words, **ports))


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
