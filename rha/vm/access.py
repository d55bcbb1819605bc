"""Lets the VM host's unprivileged user reach our files.

QEMU runs as libvirt's own user (`libvirt-qemu` on Debian), not as root: who breaks out of the substitute must not own
the appliance. libvirt hands it the disk files themselves (it changes their owner while the domain runs; AppArmor's
profile is made from the domain's description), but not the folders above them. Those of ours get that user's group and
its right to pass through (x, not r); folders outside the store are never changed. Rejected: seclabel none or QEMU as
root (no barrier left), opening the folders to everybody.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rha.errors import VmError


def why_not_searchable(folder: Path, uid: int, gid: int) -> str | None:
    """The reason why that user may not pass through a folder, by owner, group and mode; None when it may."""
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == uid:
        may = mode & stat.S_IXUSR
    elif status.st_gid == gid:
        may = mode & stat.S_IXGRP
    else:
        may = mode & stat.S_IXOTH
    return None if may or uid == 0 else f"{folder} has mode {mode:o}, owner {status.st_uid}:{status.st_gid}"


def let_in(folder: Path, store: Path, uid: int, gid: int) -> None:
    """Makes `folder` reachable for a user. Changes only folders from `store` downwards.

    Raises VmError when a folder above the store is in the way.
    """
    folder, store = folder.resolve(), store.resolve()
    for place in reversed([folder, *folder.parents]):
        why = why_not_searchable(place, uid, gid)
        if why is None:
            continue
        if not place.is_relative_to(store):
            raise VmError(
                f"the VM's user (uid {uid}) cannot reach {folder}",
                cause=why,
                hint=f"chmod o+x {place}, or move the store",
            )
        os.chown(place, -1, gid)
        place.chmod(stat.S_IMODE(place.stat().st_mode) | stat.S_IXGRP)
