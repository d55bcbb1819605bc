"""The server's two disks: a copy of the cached system, and its database on a disk of its own. Worked on from this host
while the machine is off.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import ROOT, SCENARIO
from rha.errors import DeviceError, HostError
from vmlab import image

DATA_BYTES = 1 << 30
POSTGRESQL = "var/lib/postgresql"  # mount point of the data disk
UNIT = "etc/systemd/system/rha-engine@.service"
# The engine runs where its disks are: not in the substitute, where it would be started again and again.
ONLY_HERE = "[Unit]\nConditionPathExists=/dev/disk/by-id/virtio-system\n"
SECTOR = 512
CARD = "lan0"
_LINK = "[Match]\nMACAddress={mac}\n[Link]\nName={card}\n"
_LAN = "[Match]\nMACAddress={mac}\n[Network]\nAddress={address}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"


@dataclass(frozen=True)
class ServerDisks:
    """Raw files. The machine sees them as virtio disks with the serial numbers `system` and `data`."""

    system: Path
    data: Path

    @classmethod
    def of(cls, folder: Path) -> ServerDisks:
        """Those of a scene's folder."""
        return cls(folder / "system.raw", folder / "data.raw")

    def by_name(self) -> dict[str, Path]:
        """As the scenario names them."""
        return {"system": self.system, "data": self.data}

    @contextlib.contextmanager
    def mounted(self, at: Path, *, with_data: bool = True) -> Iterator[Path]:
        """The server's root inside the block. Raises DeviceError."""
        at.mkdir(exist_ok=True)
        run("mount", "-o", f"loop,noatime,offset={_root_offset(self.system)}", str(self.system), str(at))
        try:
            if with_data:
                run("mount", "-o", "loop,noatime", str(self.data), str(at / POSTGRESQL))
            yield at
        finally:
            run("umount", "--recursive", str(at))


def make(folder: Path, files: Mapping[str, bytes], mac: str, address: str) -> ServerDisks:
    """A server that was never booted. `files`: what is written into it besides, by path below its root; `mac`,
    `address` (with prefix length): its network card. Any other card asks for an address: the substitute's.

    Raises HostError, DeviceError.
    """
    disks = ServerDisks.of(folder)
    run("cp", "--sparse=always", "--reflink=auto", str(_built()), str(disks.system))
    with disks.mounted(folder / "root", with_data=False) as root:
        image.fill(root / "opt/rha")
        for path, content in {**files, **_card(mac, address)}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
            (root / path).chmod(0o600 if path.startswith("etc/rha/pki") else 0o644)
        shutil.copy(ROOT / "packaging/rha-engine@.service", root / UNIT)
        (root / f"{UNIT}.d").mkdir()
        (root / f"{UNIT}.d/only-here.conf").write_text(ONLY_HERE)
        wants = root / "etc/systemd/system/multi-user.target.wants"
        (wants / f"rha-engine@{SCENARIO}.service").symlink_to(f"/{UNIT}")
        site = root / "etc/nginx/sites-available/default"  # no port of root's: QEMU forwards it, and is not root
        site.write_text(
            site.read_text().replace("listen 80 ", "listen 8080 ").replace("listen [::]:80 ", "listen [::]:8080 ")
        )
        _move_database(root, disks.data)
    return disks


def _card(mac: str, address: str) -> dict[str, bytes]:
    return {
        "etc/systemd/network/10-lan.link": _LINK.format(mac=mac, card=CARD).encode(),
        "etc/systemd/network/10-lan.network": _LAN.format(mac=mac, address=address).encode(),
    }


def _move_database(root: Path, data: Path) -> None:
    """PostgreSQL's folder becomes a disk."""
    with data.open("xb") as handle:
        handle.truncate(DATA_BYTES)
    words = ["-q", "-L", "data", "-m", "0", "-J", "size=16", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    run("mkfs.ext4", *words, "-d", str(root / POSTGRESQL), str(data))
    for path in (root / POSTGRESQL).iterdir():
        shutil.rmtree(path)
    with (root / "etc/fstab").open("a") as fstab:
        # systemd waits 90 s for a disk, then the machine is in emergency mode: too little on a crowded emulated host.
        fstab.write(f"LABEL=data /{POSTGRESQL} ext4 noatime,x-systemd.device-timeout=15min 0 2\n")


def _built() -> Path:
    """The cached image; built first where it is missing."""
    words = [str(ROOT / "vm-images/build-master"), "server"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise HostError("the server's image cannot be built", cause=f"build-master ended with {done.returncode}")
    return Path(done.stdout.strip())


def _root_offset(system: Path) -> int:
    """Bytes before the second partition, the root."""
    table = json.loads(run("sfdisk", "--json", str(system)))["partitiontable"]
    return int(table["partitions"][1]["start"]) * SECTOR


def run(*words: str) -> str:
    """A tool's standard output, stripped. Raises DeviceError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{words[0]} failed", cause=f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
