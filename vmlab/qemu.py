"""The words of a QEMU command line. Pure: a machine's description in, words out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmlab import disk as disks
from vmlab.disk import Disk
from vmlab.network import Card

HOT_PORTS = 4  # for virtio and NVMe disks that are attached later
KERNEL_WORDS = "root=LABEL=rha-lab ro console=ttyS0 loglevel=4 mitigations=off systemd.show_status=0 net.ifnames=0"


@dataclass(frozen=True)
class Hardware:
    """One machine. `system` is called so in it, `format` is its file's. `kernel`, `initrd`: booted directly, both None
    when the system's own boot loader does it. `tree`: the disk mounted at /opt/rha; None: it has none."""

    name: str
    accelerator: str
    memory_mib: int
    cpus: int
    kernel: Path | None
    initrd: Path | None
    system: Path
    format: str
    tree: Path | None
    console: Path
    disks: tuple[Disk, ...]
    cards: tuple[Card, ...]


def words(hardware: Hardware, agent: int, monitor: int, memory: Path | None = None, kept: str = "") -> list[str]:
    """The whole command. `agent`, `monitor`: numbers of connected sockets that the process inherits. `memory`: a file
    that a machine of the same make has left when it was put to rest; `kept`: name of a snapshot in the system disk that
    it goes on from."""
    threads = ",thread=multi" if hardware.accelerator == "tcg" else ""
    return [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),  # never outlives us, however we end
        *("-name", hardware.name, "-nodefaults", "-no-user-config", "-display", "none", "-M", "q35"),
        *("-accel", hardware.accelerator + threads, "-cpu", "max"),  # numpy wants more than TCG's default CPU
        *("-m", str(hardware.memory_mib), "-smp", str(hardware.cpus)),
        *_kernel(hardware),
        *("-serial", f"file:{hardware.console}", "-device", "virtio-rng-pci"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=agent,fd={agent}", "-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=agent,name=rha.lab"),
        *("-device", "virtio-scsi-pci,id=scsi"),
        *_ports(),
        *_system(hardware),
        *_disks(hardware.disks),
        *_cards(hardware.cards),
        *(("-incoming", f"exec:cat '{memory}'") if memory else ()),
        *(("-loadvm", kept) if kept else ()),
    ]


def _kernel(hardware: Hardware) -> list[str]:
    if hardware.kernel is None:
        return []
    return ["-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd), "-append", KERNEL_WORDS]


def _ports() -> list[str]:
    ports = (f"pcie-root-port,id=hot{i},chassis={i + 1}" for i in range(HOT_PORTS))
    return [word for port in ports for word in ("-device", port)]


def _system(hardware: Hardware) -> list[str]:
    nodes = [disks.node(Disk("system", hardware.system), hardware.format)]
    if hardware.tree:
        nodes.append(disks.node(Disk("tree", hardware.tree, read_only=True)))
    found = []
    for node in nodes:
        name = node["node-name"]
        found += ["-blockdev", json.dumps(node), "-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return found


def _disks(all_disks: Sequence[Disk]) -> list[str]:
    found, ahci = [], 0
    for disk in all_disks:
        place = None
        if disk.bus == "ahci":
            place, ahci = f"ide.{ahci}", ahci + 1
        found += ["-blockdev", json.dumps(disks.node(disk)), "-device", json.dumps(disks.device(disk, place))]
    return found


def _cards(cards: Sequence[Card]) -> list[str]:
    found = []
    for i, card in enumerate(cards):
        forward = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in card.forward)
        network = f"user,id=net{i}{forward}" if card.tap is None else f"tap,id=net{i},fd={card.tap}"
        found += ["-netdev", network, "-device", f"virtio-net-pci,netdev=net{i},mac={card.mac},romfile="]
    return found
