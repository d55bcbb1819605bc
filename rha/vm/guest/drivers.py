"""On which bus a guest finds its disk: what its kernel and initramfs can drive. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rha.vm.base import Bus

# In order of preference; what each needs of the kernel, built in or in the initramfs.
NEEDS: dict[Bus, tuple[str, ...]] = {
    "virtio": ("virtio_blk", "virtio_pci"),
    "sata": ("ahci", "sd_mod"),
    "ide": ("ata_piix", "sd_mod"),
}
# The kernel's drivers of the network cards that domain_xml.py gives a machine with that bus.
NETWORK: dict[Bus, str] = {"virtio": "virtio_net", "sata": "e1000e", "ide": "e1000"}
# Without a word from the image: every system of the last fifteen years has AHCI on board, few have virtio.
FALLBACK: Bus = "sata"
_LABELS: dict[Bus, str] = {"virtio": "virtio", "sata": "SATA", "ide": "IDE"}
_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|kernel)-([^/]+)")
_NO_KERNEL = (".old", ".bak", ".dpkg-old", ".dpkg-new", ".sig", ".hmac", ".efi.extra.d")


class Kernel(NamedTuple):
    """One kernel of /boot. `initramfs`: its file's name; empty: it has none."""

    version: str
    initramfs: str


class Choice(NamedTuple):
    """`sure` False: a fallback, worth a warning."""

    bus: Bus
    why: str
    sure: bool = True


def newest_kernel(names: Iterable[str]) -> Kernel | None:
    """The one that a boot loader begins with: the highest version of a /boot with these names; None: there is none."""
    known = set(names)
    versions = [found[1] for name in known if (found := _KERNEL.fullmatch(name)) and not name.endswith(_NO_KERNEL)]
    if not versions:
        return None
    version = max(versions, key=_sort_key)
    forms = (f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}", f"initramfs-{version}")
    return Kernel(version, next((form for form in forms if form in known), ""))


def _sort_key(version: str) -> list[tuple[int, int, str]]:
    """6.10 is above 6.9."""
    return [
        (int(part.isdigit()), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"(\d+)|[._+-]", version)
        if part
    ]


def choose(kernel: Kernel, built_in: set[str], inside: set[str]) -> Choice:
    """`built_in`: modules of the kernel itself; `inside`: those of its initramfs."""
    for bus, needs in NEEDS.items():
        if built_in.issuperset(needs):
            return Choice(bus, f"{_LABELS[bus]}: kernel {kernel.version} has {' and '.join(needs)} built in")
        if (built_in | inside).issuperset(needs):
            return Choice(bus, f"{_LABELS[bus]}: {kernel.initramfs} has {' and '.join(needs)}")
    where = kernel.initramfs or f"kernel {kernel.version}, which has no initramfs,"
    return Choice(
        FALLBACK, f"{_LABELS[FALLBACK]}: a guess, as {where} drives neither virtio nor SATA nor IDE", sure=False
    )


def unknown(why: str) -> Choice:
    """When the image says nothing."""
    return Choice(FALLBACK, f"{_LABELS[FALLBACK]}: a guess, as {why}", sure=False)
