"""File systems on images: made, loaded, and judged after the kernel has replayed their journal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from proof.lab import MIB, run


class Kind(NamedTuple):
    """`bytes`: about the smallest that its mkfs takes; `mount`: options; `check`: the checker's words, image last."""

    bytes: int
    mkfs: tuple[str, ...]
    mount: str
    check: tuple[str, ...]


KINDS = {
    "ext4": Kind(64 * MIB, ("mkfs.ext4", "-q", "-F"), "discard", ("e2fsck", "-fn")),
    "xfs": Kind(304 * MIB, ("mkfs.xfs", "-q", "-f"), "discard,nouuid", ("xfs_repair", "-n")),
    "btrfs": Kind(128 * MIB, ("mkfs.btrfs", "-q", "-f"), "discard", ("btrfs", "check")),
}


@contextmanager
def loop(image: Path) -> Iterator[str]:
    """A loop device on a file."""
    device = run("losetup", "--find", "--show", image)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(device: str, point: Path, options: str) -> Iterator[Path]:
    """A device mounted at a folder, which is made when it is missing."""
    point.mkdir(exist_ok=True)
    run("mount", "-o", options, device, point)
    try:
        yield point
    finally:
        run("umount", point)


@contextmanager
def copy_of(image: Path, copy: Path) -> Iterator[Path]:
    """A sparse copy that may be changed: mounting writes."""
    run("cp", "--sparse=auto", "--reflink=never", image, copy)
    try:
        yield copy
    finally:
        copy.unlink()


@contextmanager
def opened(kind: str, image: Path, point: Path) -> Iterator[Path]:
    """The image's file system, mounted as after a power cut: the kernel replays its journal first."""
    if kind == "btrfs":  # the kernel remembers the newest generation of a file system and refuses an older one
        subprocess.run(["btrfs", "device", "scan", "--forget"], capture_output=True, check=False)
    with loop(image) as device, mounted(device, point, KINDS[kind].mount):
        yield point


def fault(kind: str, image: Path, folder: Path, look: Callable[[Path], str | None]) -> str | None:
    """The reason why an image's file system is not sound after its journal's replay, or None. `look` sees it mounted
    and may give a reason, too. The image itself is not changed."""
    with copy_of(image, folder / "check.raw") as copy:
        try:
            with opened(kind, copy, folder / "check") as point:
                why = look(point)
        except AssertionError as error:
            return f"{kind} does not mount: {error}"
        if why:
            return why
        done = subprocess.run([*KINDS[kind].check, str(copy)], capture_output=True, text=True, check=False)
        return f"{' '.join(KINDS[kind].check)}: {done.stdout}{done.stderr}" if done.returncode else None


def is_available(kind: str) -> bool:
    """True when the tools are here."""
    return all(shutil.which(words[0]) for words in (KINDS[kind].mkfs, KINDS[kind].check))
