"""An emulated disk: a sparse raw file, and the bus on which the machine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Bus = Literal["virtio", "scsi", "nvme", "ahci"]
SECTOR = 512

# How udev names each in /dev/disk/by-id, from its serial number.
_BY_ID = {
    "virtio": "virtio-{}",
    "scsi": "scsi-0QEMU_QEMU_HARDDISK_{}",
    "nvme": "nvme-QEMU_NVMe_Ctrl_{}",
    "ahci": "ata-QEMU_HARDDISK_{}",
}
_DEVICES = {"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "nvme": "nvme", "ahci": "ide-hd"}


@dataclass(frozen=True)
class Disk:
    """`name` is the disk's serial number too: unique in its machine, at most 20 characters. `bad_sectors` take no write
    (the device answers with an I/O error; reading works). `served`: the socket of a VolatileDisk that has the file."""

    name: str
    file: Path
    bus: Bus = "virtio"
    bad_sectors: tuple[int, ...] = field(default=())
    read_only: bool = False
    served: Path | None = None

    @property
    def path(self) -> str:
        """Its name in the machine."""
        return "/dev/disk/by-id/" + _BY_ID[self.bus].format(self.name)

    def part(self, number: int) -> str:
        """Name of one of its partitions in the machine."""
        return f"{self.path}-part{number}"


def make(folder: Path, name: str, size: int, bus: Bus = "virtio", *, bad_sectors: tuple[int, ...] = ()) -> Disk:
    """A new disk of zeros, `size` bytes long, on a sparse file of the folder."""
    file = folder / f"{name}.raw"
    with file.open("xb") as handle:
        handle.truncate(size)
    return Disk(name, file, bus, bad_sectors)


def node(disk: Disk, format: str = "raw") -> dict[str, Any]:
    """QEMU's block node. A flush of the guest is not passed on to this host's disk (`no-flush`): what a killed QEMU
    has written is in this host's page cache, and this host does not lose power in a test."""
    if disk.served:  # its flushes are what matters
        return {
            "driver": format,
            "node-name": disk.name,
            "file": {"driver": "nbd", "server": {"type": "unix", "path": str(disk.served)}},
        }
    file: dict[str, Any] = {"driver": "file", "filename": str(disk.file)}
    if disk.bad_sectors:
        refusals = [{"event": "none", "iotype": "write", "sector": sector, "errno": 5} for sector in disk.bad_sectors]
        file = {"driver": "blkdebug", "image": file, "inject-error": refusals}
    cache = {"direct": False, "no-flush": True}
    return {
        "driver": format,
        "node-name": disk.name,
        "read-only": disk.read_only,
        "discard": "unmap",
        "cache": cache,
        "file": {**file, "discard": "unmap", "cache": cache},
    }


def device(disk: Disk, place: str | None = None) -> dict[str, Any]:
    """QEMU's device on the node. `place`: the bus or port it is put on; None leaves it to QEMU."""
    options: dict[str, Any] = {
        "driver": _DEVICES[disk.bus],
        "id": f"dev-{disk.name}",
        "drive": disk.name,
        "serial": disk.name,
    }
    if disk.bus != "nvme":  # it has no such choice: an error is always reported
        options |= {"write-cache": "on", "werror": "report", "rerror": "report"}
    if disk.bus == "scsi":
        options["bus"] = "scsi.0"
    return options if place is None else options | {"bus": place}
