"""A disk's boot sector and partition tables: the master's bytes, read before a substitute boots."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from rha.image.direct import read_layout
from rha.vm.disk_layout import boot_disk, recognise


class Disk:
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size, (offset, length)
        return self._data[offset : offset + length]


def run(data: bytes, folder: Path) -> None:
    """The first byte: 1: the sums of the GPT at block 1 are set right; 2: it is a qcow2 file."""
    if not data:
        return
    mode, disk = data[0], data[1:]
    if mode & 2:
        path = folder / "disk.qcow2"
        path.write_bytes(disk)
        with path.open("rb") as file:
            read_layout(file.fileno())
        return
    found = recognise(Disk(summed(disk) if mode & 1 else disk))
    boot_disk([found])


def summed(disk: bytes) -> bytes:
    if len(disk) < 1024:
        return disk
    raw = bytearray(disk)
    raw[510:512] = b"\x55\xaa"
    raw[512:520] = b"EFI PART"
    start, count, size = struct.unpack_from("<QII", raw, 512 + 72)
    raw[600:604] = zlib.crc32(raw[start * 512 : start * 512 + min(count * size, len(raw))]).to_bytes(4, "little")
    length = struct.unpack_from("<I", raw, 524)[0] % 512
    raw[528:532] = zlib.crc32(raw[512:528] + bytes(4) + raw[532 : 512 + length]).to_bytes(4, "little")
    return bytes(raw)
