"""libvirt's description of a substitute VM. Pure; format: https://libvirt.org/formatdomain.html."""

from __future__ import annotations

import ipaddress
import itertools
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

from rha.scenario import Forward
from rha.vm.base import Bus, InCeph, VmSpec

NAMESPACE = "urn:rha:substitute:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
# QEMU's user-mode network then answers DHCP and carries the forwards, and drops whatever the guest begins, to the host,
# its name servers or beyond. IPv6 is off, so that there is one protocol to be sure of.
ISOLATION = ("restrict=on", "ipv6=off")
NIC_SLOT = "0x10"  # libvirt gives slots from 0x01 up; a card made behind its back sits where it will not reach
_PREFIXES: dict[Bus, str] = {"virtio": "vd", "sata": "sd", "ide": "hd"}
_NICS: dict[Bus, str] = {"virtio": "virtio", "sata": "e1000e", "ide": "e1000"}

ET.register_namespace("rha", NAMESPACE)
ET.register_namespace("qemu", QEMU_NAMESPACE)


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def domain_xml(spec: VmSpec, *, firmware_code: Path | None = None, firmware_variables: Path | None = None) -> str:
    """The domain. `firmware_code` and `firmware_variables` (the template) are needed iff `spec.firmware` is uefi."""
    domain = ET.Element("domain", {"type": "kvm" if spec.accelerator == "kvm" else "qemu"})
    _add(domain, "name", spec.name)
    _add(_add(domain, "metadata"), f"{{{NAMESPACE}}}substitute", scenario=spec.scenario)
    _add(domain, "memory", str(spec.memory), unit="bytes")
    _add(domain, "vcpu", str(spec.cpus))
    _add_os(domain, spec, firmware_code, firmware_variables)
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _add_cpu(domain, spec)
    _add(domain, "clock", offset="utc")
    for event, act in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _add(domain, event, act)
    _add_devices(domain, spec)
    return ET.tostring(domain, encoding="unicode")


def _machine(spec: VmSpec) -> str:
    """q35 has no IDE controller."""
    return "pc" if spec.bus == "ide" else "q35"


def _add_os(domain: ET.Element, spec: VmSpec, code: Path | None, variables: Path | None) -> None:
    os = _add(domain, "os")
    _add(os, "type", "hvm", arch="x86_64", machine=_machine(spec))
    if spec.firmware == "uefi":
        _add(os, "loader", str(code), readonly="yes", type="pflash")
        _add(os, "nvram", str(spec.nvram), template=str(variables))
    _add(os, "boot", dev="hd")


def _add_cpu(domain: ET.Element, spec: VmSpec) -> None:
    """As much of a CPU as there is: the guest's programs may be built for x86-64-v2 or v3, which the default model
    lacks. Five-level paging is left out under emulation: it only makes every page walk longer."""
    if spec.accelerator == "kvm":
        _add(domain, "cpu", mode="host-passthrough")
    else:
        _add(_add(domain, "cpu", mode="maximum"), "feature", policy="disable", name="la57")


def _add_devices(domain: ET.Element, spec: VmSpec) -> None:
    devices = _add(domain, "devices")
    for number, path in enumerate(spec.disks):
        disk = _add(devices, "disk", type="file", device="disk")
        _add(disk, "driver", name="qemu", type="qcow2", discard="unmap")
        _add(disk, "source", file=str(path))
        if path in spec.in_ceph:
            _add_below(disk, spec.name, spec.in_ceph[path])
        _add(disk, "target", dev=disk_name(spec.bus, number), bus=spec.bus)
    _add_network(domain, devices, spec)
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(spec.console), append="on")
    _add(_add(devices, "channel", type="unix"), "target", type="virtio", name="org.qemu.guest_agent.0")
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(_add(devices, "video"), "model", type="vga")  # no viewer; a screenshot needs a screen
    _add(devices, "memballoon", model="none")


def _add_below(disk: ET.Element, domain: str, below: InCeph) -> None:
    """The whole chain down to Ceph, told and not left to libvirt to find: what it makes of the backing that a qcow2
    names has no key, and a configuration in the store, which AppArmor keeps from the VM."""
    place = disk
    for path in below.files:
        place = _add(place, "backingStore", type="file")
        _add(place, "format", type="qcow2")
        _add(place, "source", file=str(path))
    place = _add(place, "backingStore", type="network")
    _add(place, "format", type="raw")
    source = _add(place, "source", protocol="rbd", name=below.name)
    for monitor in below.monitors:
        host, _, port = monitor.rpartition(":")
        _add(source, "host", name=host.strip("[]"), port=port)
    if below.key:
        _add(_add(source, "auth", username=below.user), "secret", type="ceph", uuid=secret_id(domain, below.name))
    _add(place, "backingStore")


def secret_id(domain: str, image: str) -> str:
    """UUID of the secret by which libvirt keeps the key for an image of a domain."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}:{domain}:{image}"))


def secret_xml(domain: str, image: str) -> str:
    """libvirt's description of that secret: kept over a restart of libvirt, given to QEMU only."""
    secret = ET.Element("secret", ephemeral="no", private="yes")
    _add(secret, "uuid", secret_id(domain, image))
    _add(secret, "description", f"the key of {domain} for {image}")
    _add(_add(secret, "usage", type="ceph"), "name", f"{domain} {image}")
    return ET.tostring(secret, encoding="unicode")


def secrets_of(xml: str) -> list[str]:
    """The UUIDs of the secrets that a domain's disks need."""
    found = (secret.get("uuid") for secret in ET.fromstring(xml).iter("secret"))
    return [one for one in found if one]


def disk_name(bus: Bus, number: int) -> str:
    """`vda`, `vdb` … `vdz`, `vdaa`: the guest's name for disk `number`, from 0."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return _PREFIXES[bus] + letters


def _add_network(domain: ET.Element, devices: ET.Element, spec: VmSpec) -> None:
    network = spec.network
    if network.kind == "user":
        _add_user_network(domain, spec)
    elif network.kind != "none":
        interface = _add(devices, "interface", type=network.kind)
        _add(interface, "source", **{network.kind: network.source})
        if network.mac:
            _add(interface, "mac", address=network.mac)
        _add(interface, "model", type=_NICS[spec.bus])


def _add_user_network(domain: ET.Element, spec: VmSpec) -> None:
    """QEMU's own user-mode network with its port forwards, by QEMU's options. libvirt describes forwards only for its
    passt backend, and Debian 12's libvirt 9.0 refuses that (`Invalid value for attribute 'type' ... 'passt'`)."""
    model = {"virtio": "virtio-net-pci"}.get(_NICS[spec.bus], _NICS[spec.bus])
    bus = "pci.0" if _machine(spec) == "pc" else "pcie.0"
    mac = f",mac={spec.network.mac}" if spec.network.mac else ""
    alone = ISOLATION if spec.isolated else ()
    forwards = (forward_option(forward, spec.guest_address.partition("/")[0]) for forward in spec.network.forward)
    netdev = ",".join(["user,id=rha0", *alone, *_place(spec.guest_address), *forwards])
    command = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for word in ("-netdev", netdev, "-device", f"{model},netdev=rha0,bus={bus},addr={NIC_SLOT}{mac}"):
        _add(command, f"{{{QEMU_NAMESPACE}}}arg", value=word)


def _place(address: str) -> tuple[str, ...]:
    """QEMU's own two addresses, the host's and the name server's, are the first that the guest does not have."""
    if not address:
        return ()
    guest = ipaddress.IPv4Interface(address)
    host, names = itertools.islice((other for other in guest.network.hosts() if other != guest.ip), 2)
    return f"net={guest.network}", f"host={host}", f"dns={names}", f"dhcpstart={guest.ip}"


def forward_option(forward: Forward, guest: str = "") -> str:
    """`hostfwd=tcp:127.0.0.1:2222-:22`. `guest`: its address, where it is not QEMU's own choice."""
    return f"hostfwd=tcp:{forward.host}:{forward.host_port}-{guest}:{forward.guest_port}"


def owner_of(xml: str) -> str | None:
    """The scenario named in a domain's description; None when it is no substitute of ours."""
    found = ET.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}substitute")
    return None if found is None else found.get("scenario")


def console_of(xml: str) -> Path | None:
    """Where a domain's first serial port is written; None when it has none to a file."""
    found = ET.fromstring(xml).find("devices/serial[@type='file']/source")
    return None if found is None else Path(found.get("path", ""))
