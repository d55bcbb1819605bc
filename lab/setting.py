"""The files that an administrator would write by hand: the scenario, the fence, the appliance's scripts. Pure but for
`write_fence`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from lab import SCENARIO
from lab.places import DNS, HOST, MASTER, NAME, SERVICE, ZONE

Guard = Literal["fence", "lease"]

UNITS = ["nginx.service", "postgresql@15-main.service"]  # stand still when the master hands over
_SCENARIO = """\
name = "{scenario}"
mode = "ha"

[[disk]]
name = "system"
device = "/dev/disk/by-id/virtio-system"

[[disk]]
name = "data"
device = "/dev/disk/by-id/virtio-data"

[appliance]
address = "{host}:{port}"
ca = "/etc/rha/pki/ca.pem"
certificate = "/etc/rha/pki/master.pem"
key = "/etc/rha/pki/master.key"

[capture]
ring = "64MiB"

# Generous: an emulated machine on a busy host may be silent for some seconds.
[link]
heartbeat = "500ms"
lost_after = "8s"

[[check]]
kind = "sql"
address = "postgresql://demo@{service}/demo"
timeout = "4s"
attempts = 2
interval = "500ms"

{guard}
[switch]
units = {units}
limit = "4min"

[vm]
memory = "768MiB"
cpus = 2
ready_timeout = "15min"

[vm.ready]
kind = "sql"
address = "postgresql://demo@{host}/demo"
timeout = "10s"

[vm.network]
kind = "user"

[[vm.network.forward]]
host = "{host}"
host_port = 5432
guest_port = 5432

[[vm.network.forward]]
host = "{host}"
host_port = 8080
guest_port = 8080

[[redirect]]
type = "dns"
servers = ["{dns}"]
zone = "{zone}"
name = "{name}."
master = ["{service}"]
replica = ["{host}"]
ttl = "5s"
key = "{key}"
"""
_GUARDS: dict[Guard, str] = {
    "fence": '[[fence]]\nkind = "script"\nrun = "cut-power"\n',
    # The address is what the lease lets the master serve by; PostgreSQL itself runs on either side.
    "lease": '[lease]\nendpoints = ["{etcd}"]\naddresses = ["{service}/32"]\ninterface = "{card}"\n',
}
# The fence: the "power switch" of a machine is its QEMU. Exit code 0 only when nobody has its disk open any more.
_FENCE = """\
#!/bin/sh
[ "$RHA_ACT" = check ] && exit 0
fuser -s -k -KILL "{disk}"
for _ in $(seq 100); do
    fuser -s "{disk}" || {{ echo "nobody runs on {disk}"; exit 0; }}
    sleep 0.1
done
exit 1
"""


def service(guard: Guard) -> str:
    """The address at which clients find the master."""
    return SERVICE if guard == "lease" else MASTER


def scenario(port: int, key: Path, guard: Guard, etcd: str, card: str) -> str:
    """The scenario's file. `port`: the appliance's; `key`: TSIG key on the appliance's host; `card`: of the master."""
    words: dict[str, object] = {
        "host": HOST,
        "port": port,
        "dns": DNS,
        "zone": ZONE,
        "name": NAME,
        "key": key,
        "scenario": SCENARIO,
    }
    guarded = _GUARDS[guard].format(etcd=etcd, service=SERVICE, card=card)
    words["units"] = json.dumps(UNITS)
    return _SCENARIO.format(**words, service=service(guard), guard=guarded)


def write_fence(scripts: Path, disk: Path) -> None:
    """The script that cuts a machine off that runs on a disk's file."""
    scripts.mkdir(mode=0o755)
    path = scripts / "cut-power"
    path.write_text(_FENCE.format(disk=disk))
    path.chmod(0o755)
