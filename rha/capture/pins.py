"""What the loader leaves in the kernel, by name: /sys/fs/bpf/rha/SCENARIO/. Adopting it needs no compiler."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rha.capture import bpf

ROOT = bpf.BPFFS / "rha"

MAPS = ("ring", "state", "counters", "dirty", "pending", "continuation")
PROGRAMS = ("on_queue", "on_remap", "on_complete", "on_error", "on_bio_complete")
# In this order: whatever begins under the probe is also seen to end.
LINKS = {
    "link_error": ("on_error", "block_rq_error"),
    "link_bio_complete": ("on_bio_complete", "block_bio_complete"),
    "link_remap": ("on_remap", "block_bio_remap"),
    "link_queue": ("on_queue", "block_bio_queue"),
}


def folder(scenario: str) -> Path:
    """Where the pins of a scenario lie. The scenario's name is a host-name label, so it is a safe path."""
    return ROOT / scenario


def exist(scenario: str) -> bool:
    """True when every pin is there. A loader that was killed half-way leaves some only."""
    return all((folder(scenario) / name).exists() for name in (*MAPS, *PROGRAMS, *LINKS))


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
