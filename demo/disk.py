"""The master's disk: a copy of the cached image on a loop device, its root file system mounted."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rha.errors import DeviceError

# linux/fs.h, and fs/ext4/ext4.h for the last: it ends the file system at once and leaves the log unflushed.
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
MNT_DETACH = 2
UNMOUNT_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class MasterDisk:
    """`attach` and `detach` are the two ends; `detach` may be called in every state, and twice."""

    def __init__(self, image: Path, mount_point: Path) -> None:
        self.image, self.mount_point = image, mount_point
        self.device = ""  # the whole disk, valid while attached

    def attach(self, source: Path) -> None:
        """Copies the cached image (sparse, shared blocks where the file system can) and mounts its root partition."""
        _run("cp", "--sparse=always", "--reflink=auto", str(source), str(self.image))
        self.device = _run("losetup", "--find", "--show", "--partscan", str(self.image))
        _run("partx", "--update", self.device)  # a kernel without partition table support adds them only so
        self.mount_point.mkdir(parents=True, exist_ok=True)
        _run("mount", "-o", "noatime", f"{self.device}p2", str(self.mount_point))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing is written inside the block; everything that was written before is on the disk."""
        with self._opened() as handle:
            fcntl.ioctl(handle, FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(handle, FITHAW, 0)

    def cut_power(self) -> None:
        """From now on no write of the file system reaches the disk: unflushed pages are lost, as in a power cut."""
        with self._opened() as handle:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("=I", NOLOGFLUSH))

    def detach(self) -> None:
        """Unmounts and takes every loop device off the image; of an earlier run too."""
        deadline = time.monotonic() + UNMOUNT_SECONDS
        while os.path.ismount(self.mount_point):
            lazy = MNT_DETACH if time.monotonic() > deadline else 0
            if _libc.umount2(os.fsencode(self.mount_point), lazy):
                time.sleep(0.1)  # a killed process is still on its way out
        for device in _run("losetup", "--noheadings", "--output", "NAME", "--associated", str(self.image)).split():
            _run("losetup", "--detach", device)
        self.device = ""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        handle = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield handle
        finally:
            os.close(handle)


def _run(*words: str) -> str:
    """A tool's standard output, stripped.

    Raises DeviceError with what the tool said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{words[0]} failed", cause=f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
