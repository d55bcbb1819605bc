"""What lies below a disk of a substitute, as far as a hypervisor must be told of it: images in Ceph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rha.image import formats, rbd
from rha.image.rbd_ask import Question, ask
from rha.vm.base import InCeph


def in_ceph(overlays: Iterable[Path]) -> dict[Path, InCeph]:
    """Those overlays whose lowest image is in Ceph, and how a VM comes to it. Raises StorageError; of the cluster also
    as `ask`."""
    found = ((overlay, _below(overlay)) for overlay in overlays)
    return {overlay: below for overlay, below in found if below}


def _below(overlay: Path) -> InCeph | None:
    """Only what was made as a qcow2 is asked for what lies below it: what looks like one in a raw image is the guest's
    word."""
    files: list[Path] = []
    path = overlay
    while backing := (about := formats.info(path)).backing_filename:
        if node := rbd.below(backing):
            return _reached(tuple(files), node)
        if about.backing_filename_format != "qcow2":
            break
        path = Path(backing)
        files.append(path)
    return None


def _reached(files: tuple[Path, ...], node: dict[str, str]) -> InCeph:
    pool, image, user = node["pool"], node["image"], node["user"]
    found = ask(Question(conf=node["conf"], user=user, pool=pool, image=image, how_to_reach=True))
    return InCeph(files, f"{pool}/{image}", tuple(found.monitors), user, found.key)
