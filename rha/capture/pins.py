"""What the loader leaves in the kernel, by name: /sys/fs/bpf/rha/SCENARIO/. Adopting it needs no compiler."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rha.capture import bpf, shared

ROOT = bpf.BPFFS / "rha"

MAPS = ("ring", "state", "counters", "dirty", "pending", "continuation")
PROGRAMS = ("on_queue", "on_accept", "on_remap", "on_complete", "on_error", "on_bio_complete")
# In this order: whatever begins under the probe is also seen to end, and what it leaves to on_accept comes there.
LINKS = {
    "link_error": ("on_error", "block_rq_error"),
    "link_bio_complete": ("on_bio_complete", "block_bio_complete"),
    "link_accept": ("on_accept", "block_getrq"),
    "link_backmerge": ("on_accept", "block_bio_backmerge"),
    "link_frontmerge": ("on_accept", "block_bio_frontmerge"),
    "link_remap": ("on_remap", "block_bio_remap"),
    "link_queue": ("on_queue", "block_bio_queue"),
}


def folder(scenario: str) -> Path:
    """Where the pins of a scenario lie. The scenario's name is a host-name label, so it is a safe path."""
    return ROOT / scenario


def exist(scenario: str) -> bool:
    """True when every pin is there. A loader that was killed half-way leaves some only."""
    return all((folder(scenario) / name).exists() for name in (*MAPS, *PROGRAMS, *LINKS))


def scenarios() -> list[str]:
    """Names of the scenarios that have a whole set of pins."""
    return sorted(path.name for path in ROOT.iterdir() if exist(path.name)) if ROOT.is_dir() else []


def layout(scenario: str) -> int:
    """Layout number of the pinned probe's shared state: its first field in every version. Raises OSError."""
    with _state(scenario) as memory:
        return int.from_bytes(memory[:4], "little")


class Watched(NamedTuple):
    """A disk that a pinned probe watches, as in `Device`."""

    dev: int
    start: int
    sectors: int
    diskseq: int


def watched(scenario: str) -> list[Watched]:
    """The disks of a scenario's pinned probe; empty for a layout that this version cannot read. Raises OSError."""
    if layout(scenario) != shared.LAYOUT:
        return []
    with _state(scenario) as memory:
        state = np.frombuffer(memory[: shared.STATE.itemsize], shared.STATE)[0]
    disks = state["disk"][: int(state["ndisks"])]
    return [Watched(*(int(disk[name]) for name in Watched._fields)) for disk in disks]


@contextlib.contextmanager
def _state(scenario: str) -> Iterator[mmap.mmap]:
    fd = bpf.get(folder(scenario) / "state")
    try:
        with mmap.mmap(fd, shared.map_bytes(shared.STATE.itemsize, 1), mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            yield memory
    finally:
        os.close(fd)


def remove(scenario: str) -> bool:
    """Takes everything of a scenario out of the kernel, links first so that capture ends at once. True when there was
    something. Raises OSError."""
    place = folder(scenario)
    if not place.exists():
        return False
    for name in LINKS:
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place)
    if not any(ROOT.iterdir()):
        ROOT.rmdir()
    return True


def write(scenario: str, descriptors: dict[str, int]) -> None:
    """Pins all objects. Links come last: nothing is captured into maps that have no name yet. Raises OSError."""
    place = folder(scenario)
    place.mkdir(parents=True, mode=0o700)
    for name in (*MAPS, *PROGRAMS, *LINKS):
        bpf.pin(descriptors[name], place / name)


def read(scenario: str) -> dict[str, int]:
    """Descriptors of all pinned objects, by name. Raises OSError."""
    descriptors: dict[str, int] = {}
    try:
        for name in (*MAPS, *PROGRAMS, *LINKS):
            descriptors[name] = bpf.get(folder(scenario) / name)
    except OSError:
        close(descriptors)
        raise
    return descriptors


def close(descriptors: dict[str, int]) -> None:
    for fd in descriptors.values():
        os.close(fd)
