"""Always something that boots: during a sync the last consistent state of the images stays untouched.

Before the first frame that ends consistency (a gap, a mark, a new generation) every image gets a qcow2 overlay, and
what follows is applied to that. The base shows the guarded point all the time. Once the stream is consistent again the
overlay is merged into the base. Until the merge is done the chain of both is consistent, so a crash in it is repeated,
not repaired.

A failover in the middle of a sync drops the overlays: the bases then are the guarded point, and the guard stands for
that (`on_base`) until the next sync lays overlays over them again.

`guard.json` decides: present and not `on_base`, the overlays count; else they are left-overs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.durable import sync_file, sync_folder
from rha.errors import StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec
from rha.report import Point

_FILE = "guard.json"


class Guard(msgspec.Struct, kw_only=True, frozen=True):
    """The guarded point. `on_base`: there are no overlays, the images themselves show it. `position`: the journal
    position that the point stands at."""

    point: Point
    on_base: bool = False
    position: int = 0


def load(folder: Path, bases: Sequence[ImageSpec]) -> Guard | None:
    """The guard that a crash or a stop left standing; left-over overlays are removed when there is none.

    Raises StorageError.
    """
    guard = catalog.load(folder / _FILE, Guard)
    if guard is None or guard.on_base:
        _remove_overlays(bases)
    return guard


def overlay_of(base: ImageSpec) -> ImageSpec:
    """The overlay that takes the writes of a sync in place of `base`."""
    return ImageSpec(base.name, base.path.with_suffix(".sync.qcow2"), "qcow2")


def begin(folder: Path, bases: Sequence[ImageSpec], guard: Guard) -> None:
    """Lays overlays over closed images. Raises StorageError."""
    for spec in bases:
        overlay = overlay_of(spec)
        overlay.path.unlink(missing_ok=True)
        formats.overlay(overlay.path, spec.path, spec.format)
    catalog.save(folder / _FILE, guard)


def merge(folder: Path, bases: Sequence[ImageSpec]) -> None:
    """Writes the overlays into their closed bases and ends the guard. May be repeated. Raises StorageError."""
    for spec in bases:
        _commit(overlay_of(spec).path)
        sync_file(spec.path)
    end(folder, bases)


def end(folder: Path, bases: Sequence[ImageSpec]) -> None:
    """Ends the guard: the bases hold everything. Raises StorageError."""
    (folder / _FILE).unlink(missing_ok=True)
    sync_folder(folder)
    _remove_overlays(bases)


def drop(folder: Path, bases: Sequence[ImageSpec], guard: Guard) -> Guard:
    """Drops what the overlays hold: the bases show the guarded point. Returns the guard that says so."""
    dropped = Guard(point=guard.point, on_base=True, position=guard.position)
    catalog.save(folder / _FILE, dropped)
    _remove_overlays(bases)
    return dropped


def _remove_overlays(bases: Sequence[ImageSpec]) -> None:
    for spec in bases:
        overlay_of(spec).path.unlink(missing_ok=True)


def _commit(overlay: Path) -> None:
    done = subprocess.run(
        ["qemu-img", "commit", "-q", "-f", "qcow2", "-d", str(overlay)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StorageError(
            f"{overlay} cannot be merged into its base",
            cause=done.stderr.strip() or f"qemu-img ended with {done.returncode}",
            hint=f"df -h {overlay.parent}; the chain stays usable, the merge is tried again",
        )
