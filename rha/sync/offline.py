"""Writing a master's disks to a medium (rha/sync/medium.py), beside a running engine or without one.

What is written is no consistent state: the disks go on changing. It is what the appliance's images begin from; the
comparison that follows the import finds the rest.
"""

from __future__ import annotations

import socket
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import msgspec

from rha import hashing
from rha.capture.device import Device, lookup
from rha.errors import StateError
from rha.scenario import Scenario
from rha.sync import freespace, paced
from rha.sync.blocks import BLOCK_BYTES, DiskReader
from rha.sync.freespace import Range
from rha.sync.medium import PART_BYTES, Keys, Manifest, Medium, MediumDisk, Part, Secret, begin, open_keys, seal_of

_READ_BYTES = 1 << 20


class Exported(NamedTuple):
    """Bytes of the disks, of these read now, left out as free or zeros, and on the medium."""

    total_bytes: int
    read_bytes: int
    stored_bytes: int
    is_resumed: bool
    sentences: list[str]


def export(
    scenario: Scenario, root: Path, secret: Secret, progress: Callable[[int, int], None] = lambda done, total: None
) -> Exported:
    """Writes all disks of a scenario below `root`; goes on where an export with the same key was broken off.
    `progress(done, total)`: bytes of the disks.

    Raises DeviceError, StorageError, ConfigError (another key), StateError (a complete export is there already).
    """
    if scenario.sync.priority == "idle":
        paced.give_way()
    devices = [lookup(disk.device) for disk in scenario.disk]
    free = [freespace.look(device) for device in devices]
    disks = [
        MediumDisk(name=disk.name, bytes=device.bytes, source=found.sentence)
        for disk, device, found in zip(scenario.disk, devices, free, strict=True)
    ]
    medium = Medium(root, scenario.name)
    manifest, keys, parts = _begin_or_go_on(medium, scenario.name, secret, disks)
    done = {(part.disk, part.offset) for part in parts}
    is_resumed, total, passed, read = bool(parts), sum(device.bytes for device in devices), 0, 0
    for disk, (device, found) in enumerate(zip(devices, free, strict=True)):
        holes = [(first * BLOCK_BYTES, count * BLOCK_BYTES) for first, count in freespace.whole_blocks(found.ranges)]
        with DiskReader(device.path, check=lambda: None, buffers=1) as reader:
            for offset, length in _parts(device):
                if (disk, offset) not in done:
                    content, got = _content(reader, offset, length, holes, int(scenario.sync.read_limit))
                    read += got
                    if not hashing.is_zero(content):
                        parts.append(medium.write(manifest, keys, disk, offset, content))
                passed += length
                progress(passed, total)
    _seal(medium, manifest, keys, parts)
    return Exported(total, read, sum(part.stored_bytes for part in parts), is_resumed, [one.sentence for one in free])


def _begin_or_go_on(
    medium: Medium, name: str, secret: Secret, disks: list[MediumDisk]
) -> tuple[Manifest, Keys, list[Part]]:
    manifest = medium.manifest()
    if manifest is None:
        manifest, keys = begin(name, socket.gethostname(), time.time(), secret, disks)
        medium.save(manifest)
        return manifest, keys, []
    hint = f"another medium, or remove {medium.folder}"
    if manifest.seal:
        raise StateError(f"{medium.folder} holds a complete export already", cause=f"of {manifest.host}", hint=hint)
    if [(one.name, one.bytes) for one in manifest.disks] != [(one.name, one.bytes) for one in disks]:
        raise StateError(f"{medium.folder} was begun for other disks", cause="names or sizes differ", hint=hint)
    keys = open_keys(manifest, secret, medium.folder)
    return manifest, keys, medium.written(manifest)


def _parts(device: Device) -> Iterator[Range]:
    for offset in range(0, device.bytes, PART_BYTES):
        yield offset, min(PART_BYTES, device.bytes - offset)


def _content(reader: DiskReader, offset: int, length: int, holes: list[Range], limit: int) -> tuple[bytearray, int]:
    """The content of a part, zeros where it is free, and how many bytes were read for it, `limit` a second."""
    content, read = bytearray(length), 0
    for begin_at, count in _used(offset, length, holes):
        begun = time.monotonic()
        buffer, view = reader.read(begin_at, count)
        content[begin_at - offset : begin_at - offset + count] = view
        view.release()
        reader.release(buffer)
        read += count
        if limit:
            time.sleep(max(0.0, count / limit - (time.monotonic() - begun)))
    return content, read


def _used(offset: int, length: int, holes: list[Range]) -> Iterator[Range]:
    """The parts of a range outside the holes (ascending, apart from each other), of at most 1 MiB."""
    at, end = offset, offset + length
    first = max(0, bisect_right(holes, (offset, 0)) - 1)
    for hole, hole_bytes in [*takewhile(lambda one: one[0] < end, islice(holes, first, None)), (end, 0)]:
        while at < hole:
            count = min(_READ_BYTES, hole - at)
            yield at, count
            at += count
        at = max(at, hole + hole_bytes)


def _seal(medium: Medium, manifest: Manifest, keys: Keys, parts: list[Part]) -> None:
    ordered = sorted(parts, key=lambda part: (part.disk, part.offset))
    whole = msgspec.structs.replace(manifest, parts=ordered)
    medium.save(msgspec.structs.replace(whole, seal=seal_of(whole, keys)))
