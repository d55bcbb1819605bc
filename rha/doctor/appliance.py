"""Can this host be an appliance?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rha.doctor.check import Check, Finding, module, of_error, program
from rha.errors import RhaError
from rha.units import show_bytes

LIBVIRT_URI = "qemu:///system"
OVMF = (Path("/usr/share/OVMF"), Path("/usr/share/edk2/ovmf"), Path("/usr/share/qemu"))
LOW_FREE_BYTES = 20 << 30


def checks(store: Path) -> list[Check]:
    """All checks of the role; `store` is the directory of journals and images."""
    return [
        root,
        lambda: program("qemu-img", "qemu-utils"),
        lambda: program("qemu-storage-daemon", "qemu-system-common qemu-utils"),
        lambda: program("qemu-system-x86_64", "qemu-system-x86"),
        lambda: module("nbd", "python3-libnbd"),
        libvirt,
        accelerator,
        lambda: ovmf(OVMF),
        guest,
        lambda: space(store),
    ]


def root() -> Finding:
    """Images and domains belong to root."""
    if os.geteuid() == 0:
        return Finding("root", "ok", "this is root")
    return Finding("root", "fault", f"user {os.geteuid()} cannot define system domains", "sudo rha doctor")


def libvirt() -> Finding:
    """Is the module there, and does the daemon answer?"""
    found = module("libvirt", "python3-libvirt")
    if found.grade != "ok":
        return found
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else libvirt prints by itself
    try:
        connection = libvirt.open(LIBVIRT_URI)
    except libvirt.libvirtError as error:
        return Finding("libvirt", "fault", str(error), "systemctl start libvirtd (apt install libvirt-daemon-system)")
    try:
        return Finding("libvirt", "ok", f"{LIBVIRT_URI}, version {_version(connection.getLibVersion())}")
    finally:
        connection.close()


def _version(number: int) -> str:
    """libvirt counts 1 000 000 * major + 1 000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def accelerator() -> Finding:
    """Tried, not assumed: /dev/kvm may exist and still not run a guest."""
    from rha.vm import accelerator as choice

    try:
        chosen = choice.choose()
    except RhaError as error:
        return of_error("accelerator", error)
    if str(chosen) == "kvm":
        return Finding("accelerator", "ok", "kvm runs a guest")
    hint = "substitute VMs will be slow; enable virtualisation in firmware or hypervisor"
    return Finding("accelerator", "warning", f"{chosen}: kvm is missing or runs no guest", hint)


def guest() -> Finding:
    """Can the substitute's guest be fitted to its new machine before it boots?"""
    from rha.vm.guest import outside

    refusal = outside.why_not()
    if refusal is None:
        return Finding("libguestfs", "ok", "can look into a guest")
    found = of_error("libguestfs", refusal, "warning")
    return Finding(found.check, found.grade, f"{found.finding}; substitutes boot as their masters were", found.hint)


def ovmf(places: tuple[Path, ...]) -> Finding:
    """Firmware for masters that boot by UEFI."""
    for place in places:
        for found in sorted(place.glob("*OVMF_CODE*.fd")) + sorted(place.glob("*edk2-x86_64-code*.fd")):
            return Finding("OVMF", "ok", str(found))
    return Finding("OVMF", "warning", "no UEFI firmware found; masters with an ESP will not boot", "apt install ovmf")


def space(store: Path) -> Finding:
    """Free space where the images will be, in the nearest directory that exists already."""
    place = next(parent for parent in (store, *store.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    text = f"{show_bytes(free)} free in {place}"
    if free < LOW_FREE_BYTES:
        return Finding("space", "warning", text, "images need as much as the masters use, and the journal on top")
    return Finding("space", "ok", text)
