"""The disks of a running domain, read beside the guest, and what the guest has written since.

By QMP: a dirty bitmap on each disk's node, and the node exported read-only over NBD, on a unix socket that we make and
hand over: QEMU runs as libvirt's user under AppArmor, so a path in our own folder is none that it could bind.

The bitmaps are persistent: QEMU writes them into the overlay when the domain is switched off, and whoever opens the
overlay for writing next goes on with them. So what was dirtied up to the end, and by a change of the guest's settings
after the end, is known when the domain is gone; after a crash the bitmap is marked inconsistent and nobody trusts it.

**Why this is exact.** QEMU sets a range's bits when the write has ended, in the bitmap that is enabled then. Let the
last write to a block end at t, with the domain stopped later. Either t is before the first bitmap: every read of ours
comes after it and sees its content. Or t is while bitmap k is enabled: after the swap that disabled it (t lies before)
the range is read again, which sees its content; for the last bitmap the read comes when the domain is stopped. A read
after t never sees anything older, and what was sent earlier was overwritten in order. So a fuzzy copy, and then every
range that was dirtied since its begin, the last of them with the domain stopped, is the disk. `tests/vm/test_passes.py`
is this as a random model.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rha.errors import VmError
from rha.image.client import read_only_export
from rha.image.statuses import Range, dirty_ranges
from rha.vm.base import DomainState, VmHost

GRANULARITY = 64 << 10
_PREFIX = "rha-back-"  # of our bitmaps and exports; what carries it is ours to remove
_LABEL = "rha-back"


def bitmap_name(number: int) -> str:
    return f"{_PREFIX}{number}"


class LiveDisks:
    """`disks`: name and overlay, in the order in which they are asked for; each can be read by an ImageReader of
    `socket`. Every method raises VmError."""

    def __init__(self, vm: VmHost, domain: str, disks: Sequence[tuple[str, Path]], folder: Path) -> None:
        self._vm, self._domain = vm, domain
        self._disks = [(name, path.resolve()) for name, path in disks]
        self.socket = folder / "live.sock"
        self._number = 0
        self._nodes: list[str] = []

    def begin(self) -> None:
        """Tracks every disk from now on, and lets `self.socket` be read. What an earlier run has left is removed."""
        self.end()
        self._nodes = self._find_nodes()
        self._transaction([_add(node, bitmap_name(0)) for node in self._nodes])
        self._number = 0
        self._listen()
        for index, (node, (name, _)) in enumerate(zip(self._nodes, self._disks, strict=True)):
            self._export(f"{_PREFIX}disk{index}", read_only_export(name), node, [])

    def end(self) -> None:
        """Nothing of ours is left in the domain. Nothing to do when it does not run."""
        if self._vm.state(self._domain) not in (DomainState.RUNNING, DomainState.PAUSED):
            self.socket.unlink(missing_ok=True)
            return
        self._remove_exports()
        for inserted in self._blocks():
            for bitmap in inserted.get("dirty-bitmaps", []):
                if bitmap.get("name", "").startswith(_PREFIX):
                    self._qmp("block-dirty-bitmap-remove", node=inserted["node-name"], name=bitmap["name"])
        with contextlib.suppress(VmError):  # there is no server
            self._qmp("nbd-server-stop")
        self.socket.unlink(missing_ok=True)

    def swap(self) -> list[list[Range]]:
        """From here on writes count for the next pass. Returns what was dirtied before, by disk."""
        old, new = bitmap_name(self._number), bitmap_name(self._number + 1)
        actions = [act for node in self._nodes for act in (_add(node, new), _disable(node, old))]
        self._transaction(actions)
        self._number += 1
        found = []
        for index, node in enumerate(self._nodes):
            export = f"{_PREFIX}dirty{self._number}-{index}"
            self._export(export, export, node, [old])
            found.append(dirty_ranges(self.socket, export, old))
            self._unexport(export)
            self._qmp("block-dirty-bitmap-remove", node=node, name=old)
        return found

    def dirty_bytes(self) -> int:
        """What was dirtied since the last swap, as the bitmaps count it."""
        name = bitmap_name(self._number)
        return sum(
            int(one["count"])
            for inserted in self._blocks()
            for one in inserted.get("dirty-bitmaps", [])
            if one.get("name") == name
        )

    @property
    def last_bitmap(self) -> str:
        """What the overlays hold once the domain is off: dirtied since the last swap."""
        return bitmap_name(self._number)

    # QMP ------------------------------------------------------------------------------------------------------

    def _qmp(self, command: str, **arguments: Any) -> Any:
        return self._vm.monitor(self._domain, command, **arguments)

    def _blocks(self) -> list[dict[str, Any]]:
        return [block["inserted"] for block in self._qmp("query-block") if block.get("inserted")]

    def _find_nodes(self) -> list[str]:
        found = {file_of(inserted["file"]).resolve(): inserted["node-name"] for inserted in self._blocks()}
        missing = [path for _, path in self._disks if path not in found]
        if missing:
            raise VmError(
                f"domain {self._domain} does not have the disk {missing[0]}",
                cause=f"it has: {', '.join(map(str, found)) or 'none'}",
                hint=f"virsh domblklist {self._domain}",
            )
        return [found[path] for _, path in self._disks]

    def _transaction(self, actions: list[dict[str, Any]]) -> None:
        """All or none, at one moment for all disks."""
        self._qmp("transaction", actions=actions)

    def _listen(self) -> None:
        self.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            mask = os.umask(0o177)
            try:
                listener.bind(str(self.socket))
            except OSError as error:
                raise VmError(f"{self.socket} cannot be made", cause=str(error)) from error
            finally:
                os.umask(mask)
            listener.listen()
            self._vm.hand_over(self._domain, _LABEL, listener.fileno())
        self._qmp("nbd-server-start", addr={"type": "fd", "data": {"str": _LABEL}})

    def _export(self, id: str, name: str, node: str, bitmaps: list[str]) -> None:
        words: dict[str, Any] = {"type": "nbd", "id": id, "node-name": node, "name": name, "writable": False}
        self._qmp("block-export-add", **words, bitmaps=bitmaps)

    def _unexport(self, name: str) -> None:
        """Gone when this returns, so that its bitmap may be removed: nobody is connected to it any more."""
        self._qmp("block-export-del", id=name, mode="hard")
        for _ in range(500):
            if all(one["id"] != name for one in self._qmp("query-block-exports")):
                return
            time.sleep(0.01)
        raise VmError(f"domain {self._domain} does not end an export", cause=name)

    def _remove_exports(self) -> None:
        for one in self._qmp("query-block-exports"):
            if one["id"].startswith(_PREFIX):
                self._unexport(one["id"])


def file_of(name: str) -> Path:
    """The file of a qcow2. QEMU names a disk by it; but by its whole description where what lies below was told other
    than the file's header has it, as for an image in Ceph."""
    if name.startswith("json:"):
        name = json.loads(name.removeprefix("json:")).get("file", {}).get("filename", name)
    return Path(name)


def _add(node: str, name: str) -> dict[str, Any]:
    data = {"node": node, "name": name, "granularity": GRANULARITY, "persistent": True}
    return {"type": "block-dirty-bitmap-add", "data": data}


def _disable(node: str, name: str) -> dict[str, Any]:
    return {"type": "block-dirty-bitmap-disable", "data": {"node": node, "name": name}}
