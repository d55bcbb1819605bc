"""What a substitute's guest has written: by the hypervisor's count while it runs, by what its overlays hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from rha.errors import RhaError
from rha.image import formats
from rha.vm.base import DomainState, VmHost
from rha.vm.live_disks import file_of


class DiskWritten(msgspec.Struct, kw_only=True, frozen=True):
    """One disk. `held_bytes`: of its overlay, whole clusters of 64 KiB, what was adapted in the guest before its boot
    among them; None: it cannot be asked, for the reason in `why`. `guest_bytes`: written by the guest since its VM was
    started last; None: it does not run, or `why` says why it cannot be asked: what QEMU has not yet written into the
    overlay's tables is not held."""

    name: str
    overlay: str
    held_bytes: int | None = None
    guest_bytes: int | None = None
    why: str = ""

    @property
    def is_empty(self) -> bool:
        """Is it known that nothing was written?"""
        return self.held_bytes == 0 and not self.guest_bytes and not self.why


def written(vm: VmHost, domain: str, disks: Sequence[tuple[str, Path]]) -> list[DiskWritten]:
    """`disks`: names and overlays. Never raises: what cannot be had is said."""
    try:
        counted, silent = _guest_bytes(vm, domain), ""
    except RhaError as error:
        counted, silent = {}, f"the guest's own count is not known: {error.cause or error.what}"
    return [_of(name, overlay, counted.get(overlay.resolve()), silent) for name, overlay in disks]


def _of(name: str, overlay: Path, guest: int | None, silent: str) -> DiskWritten:
    try:
        held, why = formats.held_bytes(overlay), silent
    except RhaError as error:
        held, why = None, error.cause or error.what
    return DiskWritten(name=name, overlay=str(overlay), held_bytes=held, guest_bytes=guest, why=why)


def _guest_bytes(vm: VmHost, domain: str) -> dict[Path, int]:
    """QEMU's own count by image file. Raises VmError."""
    if not domain or vm.state(domain) not in (DomainState.RUNNING, DomainState.PAUSED):
        return {}
    counts = {
        one["node-name"]: int(one["stats"]["wr_bytes"])
        for one in vm.monitor(domain, "query-blockstats") or []
        if "node-name" in one
    }
    found = {}
    for block in vm.monitor(domain, "query-block") or []:
        inserted = block.get("inserted") or {}
        if inserted.get("node-name") in counts:
            found[file_of(inserted["file"]).resolve()] = counts[inserted["node-name"]]
    return found
