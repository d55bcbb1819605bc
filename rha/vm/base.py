"""What a substitute VM is, and what a VM host must be able to do. One adapter per file: libvirt.py, null.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from rha.scenario import Network

Firmware = Literal["bios", "uefi"]
Bus = Literal["virtio", "sata", "ide"]
AcceleratorName = Literal["kvm", "tcg"]


class DomainState(StrEnum):
    """`ABSENT`: the host knows no such domain."""

    ABSENT = "absent"
    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


@dataclass(frozen=True)
class InCeph:
    """What lies below a disk whose lowest image is in Ceph. `files`: the qcow2 files between, from above. `name`:
    POOL/IMAGE. `monitors`: `ADDRESS:PORT`. `user`: without its `client.`; `key`: empty where the cluster asks for none.
    """

    files: tuple[Path, ...]
    name: str
    monitors: tuple[str, ...]
    user: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class VmSpec:
    """Everything about a substitute VM, nothing left to be looked up. `memory` in bytes.

    `disks`: qcow2 files in the order of the scenario, the first one boots; `backing`: the images below them; `in_ceph`:
    of those disks that end in Ceph. `folder`: for the console log and the firmware's variables. `store`: the outermost
    folder of ours; from there downwards the host's VM user may be let in. `isolated`: the guest reaches nobody, and is
    reached by its forwards alone; its network is `none` or `user`. `guest_address`, with its prefix length: of the
    guest in a user-mode network; empty: 10.0.2.15.
    """

    name: str
    scenario: str
    memory: int
    cpus: int
    firmware: Firmware
    bus: Bus
    accelerator: AcceleratorName
    disks: tuple[Path, ...]
    backing: tuple[Path, ...]
    network: Network
    folder: Path
    store: Path
    isolated: bool = False
    guest_address: str = ""
    in_ceph: Mapping[Path, InCeph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError when an isolated VM would be on a network of others."""
        if self.isolated and self.network.kind not in ("none", "user"):
            raise ValueError(f"{self.name} is to be isolated, on {self.network.kind} {self.network.source}")

    @property
    def console(self) -> Path:
        """What the guest says on its first serial port, appended over all boots."""
        return self.folder / "console.log"

    @property
    def nvram(self) -> Path:
        """The UEFI variables of this VM; used iff `firmware` is uefi."""
        return self.folder / "nvram.fd"


def domain_name(scenario: str) -> str:
    """The substitute's name on its host."""
    return f"rha-{scenario}"


class VmHost(ABC):
    """A hypervisor. Every method raises VmError with the hypervisor's own words as cause."""

    @abstractmethod
    def prepare(self) -> None:
        """Lets the host find out now what it would find out when the first domain is made, and stay at hand. Changes
        nothing; may be repeated. Raises VmError also when it does not answer."""

    @abstractmethod
    def define(self, spec: VmSpec) -> None:
        """Makes the domain known, not running. A domain of that name is replaced if it is ours, of the same scenario,
        and not running.

        Raises VmError also when the name is a stranger's, or the domain runs.
        """

    @abstractmethod
    def start(self, name: str) -> None:
        """Starts a defined domain; one that runs already stays as it is."""

    @abstractmethod
    def state(self, name: str) -> DomainState: ...

    @abstractmethod
    def destroy(self, name: str) -> None:
        """Cuts its power. Nothing to do when it is off or absent."""

    @abstractmethod
    def press_power(self, name: str) -> None:
        """Asks the guest to shut down, by its agent or the power button; it may need minutes, or take no notice.
        Nothing to do when it is off or absent."""

    @abstractmethod
    def is_going_down(self, name: str) -> bool:
        """Has the guest switched itself off, and only its process is still there, writing out what it holds? It counts
        as running, answers nothing any more, and may need long on a busy disk."""

    @abstractmethod
    def monitor(self, name: str, command: str, /, **arguments: Any) -> Any:
        """One QMP command to the hypervisor process of a running domain; its return value."""

    @abstractmethod
    def hand_over(self, name: str, label: str, file: int) -> None:
        """Gives that process an open file under a label (QMP `getfd`)."""

    @abstractmethod
    def undefine(self, name: str) -> None:
        """Forgets a domain that is off, with its firmware variables. Nothing to do when it is absent."""

    @abstractmethod
    def owner(self, name: str) -> str | None:
        """The scenario that a domain stands for; None when it is absent or no substitute of ours."""

    @abstractmethod
    def console(self, name: str, *, tail_bytes: int = 2000) -> str:
        """The end of what the guest has said on its serial port; empty when nothing was said."""

    @abstractmethod
    def is_forward_established(self, name: str, guest_port: int) -> bool:
        """Is a connection through a user-mode forward established with the guest itself?

        The host's end accepts a connection before the guest has been asked: accepted means nothing, established does.
        """

    @abstractmethod
    def screenshot(self, name: str, path: Path) -> None:
        """Writes what a running domain's screen shows as a PNG file."""

    @abstractmethod
    def ask_agent(self, name: str, command: str, limit: float, **arguments: Any) -> Any:
        """What the QEMU guest agent inside a domain returns to a command, in `limit` seconds (at least one)."""

    @abstractmethod
    def free_memory(self) -> int:
        """Bytes that a new domain could take without the host having to swap."""
