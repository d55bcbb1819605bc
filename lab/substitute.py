"""The substitute VM as libvirt and the network show it, and a plain boot of the same disks beside it."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import psycopg2

from demo.hypervisor import URI
from lab import SCENARIO
from lab.client import connect
from lab.places import HOST, wait_for
from rha.image import formats
from rha.vm.base import domain_name

PLAIN = f"{domain_name(SCENARIO)}-plain"
BOOT_SECONDS = 900.0
EVERY_SECONDS = 0.5  # each question is work for a machine that boots


def runs(name: str = domain_name(SCENARIO)) -> bool:
    """Libvirt has a domain of that name that is active."""
    with contextlib.closing(libvirt.open(URI)) as connection:
        return any(
            domain.name() == name for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        )


def serves(address: str = HOST) -> bool:
    """A query is answered where clients will be led to, or at another address."""
    try:
        with contextlib.closing(connect(address)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return True
    except psycopg2.Error:
        return False


def plain_boot(folder: Path) -> float:
    """Seconds from `virsh start` to the database's first answer, of a domain that differs from the substitute in its
    name and in fresh overlays on the same images. The substitute's power is cut first. Raises VmError, StateError."""
    with contextlib.closing(libvirt.open(URI)) as connection:
        substitute = connection.lookupByName(domain_name(SCENARIO))
        xml = substitute.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        if substitute.isActive():
            substitute.destroy()
        plain = connection.defineXML(_renamed(xml, folder))
        try:
            begun = time.monotonic()
            plain.create()
            wait_for("a plain boot", BOOT_SECONDS, serves, every=EVERY_SECONDS)
            return time.monotonic() - begun
        finally:
            if plain.isActive():
                plain.destroy()
            plain.undefine()


def _renamed(xml: str, folder: Path) -> str:
    """The same domain under another name, on overlays of its own."""
    domain = ET.fromstring(xml)
    for tag in ("uuid", "metadata"):
        found = domain.find(tag)
        if found is not None:
            domain.remove(found)
    name = domain.find("name")
    assert name is not None
    name.text = PLAIN
    for source in domain.iterfind("devices/disk/source"):
        overlay = Path(source.get("file", ""))
        fresh = folder / f"plain-{overlay.name}"
        formats.overlay(fresh, *_backing(overlay))
        source.set("file", str(fresh))
    console = domain.find("devices/serial/source")
    if console is not None:
        console.set("path", str(folder / "plain.log"))
    return ET.tostring(domain, encoding="unicode")


def _backing(overlay: Path) -> tuple[Path, str]:
    """The image below an overlay, and its format."""
    return overlay.parent.parent / "images" / overlay.name, "qcow2"
