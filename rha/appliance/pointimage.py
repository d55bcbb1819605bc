"""A point as images of their own, for a substitute that must not need this process: overlays on closed images, into
which everything is written that differs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rha.appliance.apply import write_batch
from rha.appliance.pointview import PointView
from rha.appliance.rewinding import write_back
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon


def overlay_of(image: ImageSpec) -> ImageSpec:
    return ImageSpec(image.name, image.path.with_name(f"{image.name}.point.qcow2"), "qcow2")


def write_overlays(view: PointView, images: Sequence[ImageSpec], run: Path) -> list[ImageSpec]:
    """Makes the overlays, in the order of the disks; what an earlier try has left is replaced. `run`: a folder for the
    storage daemon. The images must be closed, and stay as they are. Raises StorageError."""
    overlays = [overlay_of(image) for image in images]
    remove_overlays(images)
    for image, overlay in zip(images, overlays, strict=True):
        formats.overlay(overlay.path, image.path, image.format)
    # The storage daemon dies with the thread that started it.
    with ThreadPoolExecutor(1, thread_name_prefix="point") as keeper:
        daemon = StorageDaemon(overlays, run)
        keeper.submit(daemon.start).result()
        try:
            writers = [daemon.writer(overlay.name) for overlay in overlays]
            write_back(view, partial(write_batch, writers))
            for writer in writers:
                writer.flush()
                writer.close()
        finally:
            keeper.submit(daemon.stop).result()
    return overlays


def remove_overlays(images: Sequence[ImageSpec]) -> None:
    for image in images:
        overlay_of(image).path.unlink(missing_ok=True)
