"""Images filled from a medium (rha/sync/medium.py): a first sync that did not go over the line.

They are built in `.import-SCENARIO` beside the scenarios and take the scenario's place as a whole when they are
complete, so nothing half done is ever served. Broken off, an import of the same medium goes on. The master then
compares: the disks have changed since the export.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from rha import hashing
from rha.appliance import catalog
from rha.appliance.stream import DiskState, StreamState
from rha.durable import sync_folder
from rha.errors import StateError, StorageError
from rha.image import formats
from rha.image.client import ImageWriter
from rha.image.formats import Format
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.sync.blocks import BLOCK_BYTES
from rha.sync.medium import Manifest, Medium, Part, Secret
from rha.units import show_bytes

FLUSH_PARTS = 8  # 256 MiB at most are imported again after a crash


class Imported(NamedTuple):
    scenario: str
    disks: list[str]
    bytes: int
    begun: float


class _Progress(msgspec.Struct, kw_only=True):
    """`parts` of medium `id` are in the images, and flushed."""

    id: str
    parts: int = 0


def staging_of(store: Path, scenario: str) -> Path:
    return store / f".import-{scenario}"


def fill(
    store: Path, medium: Medium, secret: Secret, form: Format, progress: Callable[[int, int], None]
) -> tuple[Path, Imported]:
    """The folder of a complete scenario, made from a medium, ready to take its place. `progress(done, total)` in parts.

    Raises StorageError, ConfigError; the store is as before then, but for what the next attempt goes on from.
    """
    manifest, keys = medium.complete(secret)
    staging = staging_of(store, manifest.scenario)
    state = _begin_or_go_on(staging, manifest)
    _refuse_without_room(store, staging, manifest, state.parts)
    specs = _images(staging, manifest, form)
    with StorageDaemon(specs, staging / "run") as daemon:
        writers = [daemon.writer(spec.name) for spec in specs]
        try:
            for number, part in enumerate(manifest.parts[state.parts :], state.parts + 1):
                _write(writers[part.disk], part, medium.read(manifest, keys, part))
                if number % FLUSH_PARTS == 0 or number == len(manifest.parts):
                    for writer in writers:
                        writer.flush()
                    catalog.save(staging / "import.json", _Progress(id=manifest.id, parts=number))
                progress(number, len(manifest.parts))
        finally:
            for writer in writers:
                writer.close()
    _finish(staging, manifest)
    found = Imported(
        manifest.scenario,
        [disk.name for disk in manifest.disks],
        sum(part.bytes for part in manifest.parts),
        manifest.begun,
    )
    return staging, found


def _begin_or_go_on(staging: Path, manifest: Manifest) -> _Progress:
    state = catalog.load(staging / "import.json", _Progress) if staging.exists() else None
    if state is None or state.id != manifest.id:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        state = _Progress(id=manifest.id)
        catalog.save(staging / "import.json", state)
    return state


def _refuse_without_room(store: Path, staging: Path, manifest: Manifest, done: int) -> None:
    """Before anything is written. Compression hides what a part takes, so its full length counts."""
    needed = sum(part.bytes for part in manifest.parts[done:])
    status = os.statvfs(store)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise StorageError(
            "the store is too small for the medium",
            cause=f"{show_bytes(needed)} are to be written, {store} has {show_bytes(free)} free",
            hint=f"df -h {store}",
        )


def _images(staging: Path, manifest: Manifest, form: Format) -> list[ImageSpec]:
    (staging / "images").mkdir(exist_ok=True, mode=0o700)
    specs = []
    for disk in manifest.disks:
        path = staging / "images" / f"{disk.name}.{form}"
        if not path.exists():
            formats.create(path, disk.bytes, form)
        specs.append(ImageSpec(disk.name, path, form))
    return specs


def _write(writer: ImageWriter, part: Part, content: bytes) -> None:
    """A new image is zeros already, so what is zero is not written."""
    if part.offset + len(content) > writer.bytes:
        cause = f"{len(content)} bytes at {part.offset} of {writer.bytes}"
        raise StorageError("the medium holds more than its disk", cause=cause, hint="export once more")
    view, begin = memoryview(content), None
    for at in range(0, len(view) + BLOCK_BYTES, BLOCK_BYTES):
        used = at < len(view) and not hashing.is_zero(view[at : at + BLOCK_BYTES])
        if used and begin is None:
            begin = at
        elif not used and begin is not None:
            writer.write(part.offset + begin, view[begin:at])
            begin = None
    writer.drain()


def _finish(staging: Path, manifest: Manifest) -> None:
    """What makes the folder a scenario whose images hold something of an unknown moment."""
    disks = tuple(DiskState(name=disk.name, bytes=disk.bytes, phase="stale") for disk in manifest.disks)
    catalog.save_stream(staging, StreamState(disks=disks))
    shutil.rmtree(staging / "run", ignore_errors=True)
    (staging / "import.json").unlink()


def why_not_replaced(folder: Path) -> StateError | None:
    """The reason why a scenario's folder must not give way to an import; None: it holds nothing yet."""
    state = catalog.load_stream(folder)
    used = [disk.name for disk in state.disks if disk.phase != "new"]
    if not used:
        return None
    return StateError(
        f"{folder.name} has images already",
        cause=f"a sync has begun or ended on: {', '.join(used)}",
        hint=f"a medium is for a first sync; else move {folder} aside while the appliance is stopped",
    )


def put_in_place(staging: Path, folder: Path) -> None:
    """The import becomes the scenario; the empty one before it is removed. Raises StorageError."""
    aside = staging.with_name(f".replaced-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            folder.rename(aside)
        staging.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be put in place", cause=str(error), hint=f"ls -la {folder.parent}"
        ) from error
