"""The kernel that libguestfs boots its small VM with. libguestfs takes the newest of this host's /boot; a host without
one there (a container, a VM whose kernel comes from outside) needs one elsewhere: packaging/guest-kernel puts Debian's
into KERNEL_FOLDER, without installing it, as no boot loader of this host should ever see it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rha.errors import HostError

KERNEL_FOLDER = Path("/usr/lib/rha/guest-kernel")


def environment(
    root: Path = Path("/"), folder: Path = KERNEL_FOLDER, own: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables that lead supermin(1) to its kernel; none when it finds one by itself. What the administrator has
    set counts first.

    Raises HostError when there is no kernel.
    """
    set_by_hand = {name: own[name] for name in ("SUPERMIN_KERNEL", "SUPERMIN_MODULES") if own.get(name)}
    if set_by_hand or _pairs(root):
        return set_by_hand
    if pairs := _pairs(folder):
        image, modules = pairs[-1]
        return {"SUPERMIN_KERNEL": str(image), "SUPERMIN_MODULES": str(modules)}
    raise HostError(
        "no kernel for libguestfs",
        cause=f"no vmlinuz, readable for all, with its modules in {root / 'boot'} and {folder}",
        hint="packaging/guest-kernel (or apt install linux-image-amd64)",
    )


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """Kernels whose modules are there too, in the order of their names. supermin runs as an unprivileged user, who may
    not read those of some distributions."""
    images = sorted((root / "boot").glob("vmlinu[xz]-*"))
    pairs = [(image, root / "lib/modules" / image.name.partition("-")[2]) for image in images]
    return [(image, modules) for image, modules in pairs if modules.is_dir() and image.stat().st_mode & 0o004]
