"""Reads a closed image file of any format QEMU knows, for `disk_layout`: by qemu-nbd, read-only, private socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd

from rha.errors import StorageError
from rha.image import rbd


class _Image:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def size(self) -> int:
        return int(self._handle.get_size())

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._handle.pread(length, offset))


@contextlib.contextmanager
def open_image(path: Path, format: str) -> Iterator[_Image]:
    """A `disk_layout.Reader` of an image. qemu-nbd ends when its only client hangs up, and is killed when the handle is
    collected, or with us: one whose client was killed before it came would wait for it, and hold the image for ever.

    Raises StorageError when the image cannot be opened or read.
    """
    handle: Any = nbd.NBD()
    try:
        name, form = rbd.as_named(path, format)
        words = ["setpriv", "--pdeathsig", "KILL", "qemu-nbd", "--read-only", "-f", form, name]
        handle.connect_systemd_socket_activation(words)
        yield _Image(handle)
    except nbd.Error as error:
        raise StorageError(f"image {path} cannot be read", cause=str(error), hint=f"qemu-img info {path}") from error
    finally:
        if handle.aio_is_ready():
            handle.shutdown()
