"""The substitute's network card: its MAC must be known before the guest boots, as the guest is told of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rha.scenario import Network, Scenario

MACHINE_ID = Path("/etc/machine-id")
_PREFIX = "52:54:00"  # QEMU's and libvirt's own


def network_of(scenario: Scenario, machine_id: Path = MACHINE_ID) -> Network:
    """The scenario's network with its MAC. Where the scenario names none it is made of this host and the scenario's
    name: the same at every failover, so that DHCP servers and switches know the substitute again."""
    network = scenario.vm.network
    if network.mac or network.kind == "none":
        return network
    return msgspec.structs.replace(network, mac=mac_of(scenario.name, _read(machine_id)))


def mac_of(scenario: str, host: str) -> str:
    digest = hashlib.sha256(f"{host}\0{scenario}".encode()).digest()
    return ":".join([_PREFIX, *(f"{byte:02x}" for byte in digest[:3])])


def _read(path: Path) -> str:
    """Empty where there is none: a container without systemd."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
