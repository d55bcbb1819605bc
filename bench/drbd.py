"""DRBD 8.4 with protocol A beside rha, between the same two machines of the lab and over the same wire: what each
costs the writers of the same disk.

Protocol A calls a write complete when it is on the local disk and in the socket's send buffer: DRBD's nearest to rha.
In each round, one after the other: the bare disk, DRBD on it, rha on it. fio runs in the machine. The machines are
emulated where the host has no virtualisation (the result says so): only the ratios mean anything.

DRBD's activity log and its buffers are set as its guide advises for throughput. The initial copy is left out
(`new-current-uuid --clear-bitmap`), which is right for two disks of zeros, and the comparison of content is not DRBD's
matter here. rha has compared its disk before it is measured: it is in write order.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import figures as f
from bench.tables import plain, table
from rha import pki
from rha.vm import accelerator
from vmlab import disk
from vmlab.machine import Machine
from vmlab.network import Card, Segment
from vmlab.site import Master, install

BARE, DRBD, RHA = "bare", "drbd", "rha"
WAYS = (BARE, DRBD, RHA)
MIB = 1 << 20
ROUNDS = 3
SECONDS = 4
DISK_BYTES, USED_BYTES, STORE_BYTES = 256 * MIB, 224 * MIB, 3072 * MIB  # DRBD keeps its metadata behind what is used
MEMORY_MIB = 1536
RING = "256MiB"
PRIMARY, SECONDARY = "10.9.0.1", "10.9.0.2"
PORT, NAME = 7420, "pair"
JOBS = {
    "randwrite 4 KiB, queue 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "randwrite 4 KiB, queue 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "randwrite 64 KiB, queue 4": ["--rw=randwrite", "--bs=64k", "--iodepth=4"],
    "write 1 MiB, queue 4": ["--rw=write", "--bs=1m", "--iodepth=4"],
}
THIN = "randwrite 4 KiB, queue 1, line of 8 Mbit/s"
THIN_LINE = "tc qdisc replace dev eth0 root tbf rate 8mbit burst 64kb latency 100ms"
_RESOURCE = """\
global {{ usage-count no; }}
resource r0 {{
  net {{ protocol A; max-buffers 8000; max-epoch-size 8000; sndbuf-size 0; }}
  disk {{ al-extents 3389; }}
  device /dev/drbd0;
  meta-disk internal;
  on primary {{ disk {primary}; address {primary_address}:7789; }}
  on secondary {{ disk {secondary}; address {secondary_address}:7789; }}
}}
"""

Row = dict[str, object]


class Run(NamedTuple):
    """One fio run; latencies in microseconds, from before the submission on."""

    iops: float
    mean: float
    p50: float
    p99: float


def parse(text: str) -> Run:
    """fio's JSON, of one job that writes."""
    write = json.loads(text)["jobs"][0]["write"]
    latency = write["lat_ns"]
    p50, p99 = (latency["percentile"][key] / 1000 for key in ("50.000000", "99.000000"))
    return Run(write["iops"], latency["mean"] / 1000, p50, p99)


def measure() -> list[Row]:
    """One row per job: medians on the bare disk, and what it is with DRBD and with rha, as ratios to that of the same
    round; `rha_of_drbd`: the two beside each other."""
    with _pair() as pair:
        runs: dict[str, dict[str, list[Run]]] = {name: {way: [] for way in WAYS} for name in (*JOBS, THIN)}
        behind: dict[str, list[float]] = {name: [] for name in runs}
        losses: dict[str, int] = {}
        for _ in range(ROUNDS):
            for way in WAYS:
                with pair.way(way) as device:
                    for name in runs:
                        pair.wire(is_thin=name == THIN)
                        runs[name][way].append(pair.fio(device, JOBS.get(name, JOBS["randwrite 4 KiB, queue 1"])))
                        pair.wire(is_thin=False)
                        if way == RHA:
                            behind[name].append(pair.settle())
                    losses = pair.losses() if way == RHA else losses
        return [_row(name, runs[name], behind[name]) for name in runs] + [pair.about(losses)]


def _row(name: str, runs: dict[str, list[Run]], behind: list[float]) -> Row:
    bare = runs[BARE]
    return {
        "name": name,
        "load": f.load(),
        **{field: round(median(getattr(run, field) for run in bare), 1) for field in Run._fields},
        **{way: f.against(runs[way], bare) for way in (DRBD, RHA)},
        "rha_of_drbd": f.against(runs[RHA], runs[DRBD]),
        "rha_settled_seconds": f.spread(behind),
    }


class _Pair:
    """Two machines on one wire, with DRBD's resource and rha's scenario on the same disk."""

    def __init__(self, folder: Path, primary: Machine, secondary: Machine, disks: dict[str, disk.Disk]) -> None:
        self._folder, self._primary, self._secondary, self._disks = folder, primary, secondary, disks
        self._master: Master

    def prepare(self) -> None:
        for machine in (self._primary, self._secondary):
            machine.run("hostname", machine.name)
            machine.put(
                "/etc/drbd.conf",
                _RESOURCE.format(
                    primary=self._disks["data"].path,
                    primary_address=PRIMARY,
                    secondary=self._disks["mirror"].path,
                    secondary_address=SECONDARY,
                ),
            )
            machine.sh("modprobe drbd; drbdadm create-md --force r0")
        self._drbd_up()
        self._primary.sh("drbdadm new-current-uuid --clear-bitmap r0")
        self._drbd_down()
        self._install_rha()

    def _install_rha(self) -> None:
        authority = self._folder / "pki"
        pki.init(authority, "Lab")
        theirs = pki.issue_appliance(authority, "lab", [SECONDARY])
        for path in (authority / "ca.pem", theirs.certificate, theirs.key):
            self._secondary.put(f"/etc/rha/pki/{path.name}", path.read_bytes())
        self._secondary.put(
            "/etc/rha/appliance.toml",
            f'listen = "{SECONDARY}:{PORT}"\nstore = "/var/lib/rha/store"\nca = "/etc/rha/pki/ca.pem"\n'
            f'certificate = "/etc/rha/pki/{theirs.certificate.name}"\nkey = "/etc/rha/pki/{theirs.key.name}"\n'
            'reserve = "64MiB"\n',
        )
        self._secondary.sh(
            f"mkfs.ext4 -q {self._disks['store'].path}; mkdir -p /var/lib/rha/store;"
            f" mount {self._disks['store'].path} /var/lib/rha/store;"
            " cp -u /opt/rha/packaging/rha-appliance.service /etc/systemd/system/; systemctl daemon-reload"
        )
        mine = pki.issue_master(authority, NAME)
        devices = {"data": self._disks["data"].path}
        ca = authority / "ca.pem"
        self._master = install(self._primary, NAME, devices, ca, mine, f"{SECONDARY}:{PORT}", RING)

    # The three ways -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def way(self, way: str) -> Iterator[str]:
        """The device to write to, as long as the block lasts."""
        path = self._disks["data"].path
        if way == DRBD:
            self._drbd_up()
            self._primary.run("drbdadm", "primary", "r0")
            yield "/dev/drbd0"
            self._primary.run("drbdadm", "secondary", "r0")
            self._drbd_down()
        elif way == RHA:
            self._secondary.run("systemctl", "start", "rha-appliance")
            self._master.start()
            self._master.wait_ordered()
            yield path
            self._master.unload()
            self._secondary.run("systemctl", "stop", "rha-appliance")
        else:
            yield path

    def _drbd_up(self) -> None:
        for machine in (self._secondary, self._primary):
            machine.run("drbdadm", "up", "r0")
        self._primary.wait_until("[ $(drbdadm cstate r0) = Connected ]", 60)

    def _drbd_down(self) -> None:
        for machine in (self._primary, self._secondary):
            machine.run("drbdadm", "down", "r0")

    # Measuring ------------------------------------------------------------------------------------------------

    def wire(self, *, is_thin: bool) -> None:
        """The line as it is, or a thin one in the direction of the copy."""
        self._primary.sh(THIN_LINE if is_thin else "tc qdisc del dev eth0 root 2>/dev/null || true")

    def fio(self, device: str, words: list[str]) -> Run:
        fixed = ["--name=bench", f"--filename={device}", f"--size={USED_BYTES}", "--direct=1", "--ioengine=libaio"]
        fixed += [f"--runtime={SECONDS}", "--time_based", "--lat_percentiles=1", "--output-format=json"]
        return parse(self._primary.run("fio", *fixed, *words))

    def settle(self) -> float:
        """Seconds until the appliance has everything."""
        begun = time.monotonic()
        self._master.wait_ordered()
        return time.monotonic() - begun

    def losses(self) -> dict[str, int]:
        """How often rha has left write order since it was loaded, by reason."""
        return {name: count for one in self._master.report()["disks"] for name, count in one["left_order"].items()}

    def about(self, losses: dict[str, int]) -> Row:
        version = self._primary.sh("head -1 /proc/drbd 2>/dev/null || modinfo -F version drbd")
        return {
            "name": "machines",
            "accelerator": accelerator.choose().name,
            "each": f"1 processor, {MEMORY_MIB} MiB, virtio disk and network",
            "drbd": version,
            "ring": RING,
            "rha_left_order_in_last_round": losses,
        }


@contextlib.contextmanager
def _pair() -> Iterator[_Pair]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-", dir="/var/tmp")))
        segment = stack.enter_context(Segment())
        sizes = {"data": DISK_BYTES, "mirror": DISK_BYTES, "store": STORE_BYTES}
        disks = {name: disk.make(folder, name, size) for name, size in sizes.items()}
        machines = []
        for name, address, mine in (("primary", PRIMARY, ["data"]), ("secondary", SECONDARY, ["mirror", "store"])):
            card = segment.card()
            machine = _machine(name, folder, [disks[one] for one in mine], card)
            machines.append((stack.enter_context(machine), card, address))
            machine.power_on()
        for machine, card, address in machines:
            machine.wait_up()
            machine.address(card, f"{address}/24")
        pair = _Pair(folder, machines[0][0], machines[1][0], disks)
        pair.prepare()
        yield pair


def _machine(name: str, folder: Path, disks: list[disk.Disk], card: Card) -> Machine:
    return Machine(name, folder, disks=disks, cards=[card], memory_mib=MEMORY_MIB)


def show(rows: list[Row]) -> None:
    """Figures of the bare disk, the ratios of both to it, and of one to the other."""
    for row in rows:
        if "rha_of_drbd" not in row:
            plain({key: value for key, value in row.items() if key != "name"})
            continue
        lines = []
        for field in Run._fields:
            ratios = [f.text(row[key][field]) for key in (DRBD, RHA, "rha_of_drbd")]  # type: ignore[index]
            lines.append([field, f"{row[field]}", *ratios])
        table([str(row["name"]), "bare", "DRBD A", "rha", "rha of DRBD"], lines)
        print(f"  rha had everything {f.text(row['rha_settled_seconds'])} s later, load {row['load']}\n")  # type: ignore[arg-type]
