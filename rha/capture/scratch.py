"""A block device of our own, in memory: calibration and self-test write through it, never to a disk of the master."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from rha.errors import HostError

BYTES = 8 << 20
# include/uapi/linux/loop.h
_CTL_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
_INFO64_BYTES, _FLAGS_OFFSET = 232, 52


@contextlib.contextmanager
def device() -> Iterator[tuple[str, int]]:
    """A loop device over anonymous memory: (path, descriptor opened O_RDWR | O_DIRECT). The kernel frees it when the
    descriptor closes, however the process ends.

    Raises HostError when loop devices cannot be had.
    """
    memory = os.memfd_create("rha-scratch")
    try:
        os.ftruncate(memory, BYTES)
        path, fd = _attach(memory)
        try:
            yield path, fd
        finally:
            os.close(fd)
    finally:
        os.close(memory)


def _attach(memory: int) -> tuple[str, int]:
    info = bytearray(_INFO64_BYTES)
    struct.pack_into("<I", info, _FLAGS_OFFSET, _AUTOCLEAR)
    config = struct.pack("<II", memory, 512) + bytes(info) + bytes(64)
    try:
        with open("/dev/loop-control", "rb") as control:
            for _ in range(16):  # another process may take the free one first
                path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
                fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(fd, _CONFIGURE, config)
                    return path, fd
                except OSError as error:
                    os.close(fd)
                    if error.errno != 16:  # EBUSY
                        raise
        raise OSError(16, "every free loop device was taken by another process")
    except OSError as error:
        raise HostError(
            "no scratch device for the self-test",
            cause=str(error),
            hint="modprobe loop; ls -l /dev/loop-control",
        ) from error
