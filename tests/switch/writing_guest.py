"""A guest in one sector that writes for ever (writer.S): real writes, a real shutdown, and it boots in a second."""

from __future__ import annotations

import struct
from pathlib import Path

PAGE_BYTES = 4096
BEGUN, ENDED = "writing", "power button"
_PARAMETERS = 0x1A8  # u16 pages a tick of 55 ms, u16 0, u32 how many pages of the disk

_CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007c8816d17cbea97ce88700ba0006b80001efba0206effbf48b2ea87d66ff06d47c66a1d87c6669c00d"
    "66190066055ff36e3c66a3d87c66c1e8086631d266f736ac7d66c1e2036683c208668916e47c66a1d47cbf0080b90004fc66f3ab"
    "bedc7c8a16d17cb80043cd13720eba0006edf6c401750d4d75a5eb9dbec27ce81300eb0dbeb37ce80b00ba0406b80020effaf4eb"
    "fcbaf803ac84c07403eeebf8c377726974696e670d0a00706f77657220627574746f6e0d0a007772697465206661696c65640d0a"
    "000066900000000001000000100008000080"
)


def boot_sector(size: int, burst: int) -> bytes:
    """512 bytes for a disk of `size` bytes: `burst` pages are written 18 times a second, at pseudo-random places behind
    the first page."""
    parameters = struct.pack("<HHI", burst, 0, size // PAGE_BYTES - 2) + b"GRUB"
    return (_CODE.ljust(_PARAMETERS, b"\0") + parameters).ljust(510, b"\0") + b"\x55\xaa"


def writing_disk(path: Path, size: int, burst: int = 8) -> Path:
    """A raw disk that boots by BIOS into it; the rest is zeros."""
    path.write_bytes(boot_sector(size, burst))
    with path.open("ab") as file:
        file.truncate(size)
    return path


def expected(size: int, writes: int, burst: int = 8) -> bytes:
    """The disk after so many writes of the guest: the same sequence as in writer.S, by other means."""
    disk = bytearray(boot_sector(size, burst)) + bytes(size - 512)
    seed, pages = 1, size // PAGE_BYTES - 2
    for count in range(1, writes + 1):
        seed = (seed * 1664525 + 1013904223) & 0xFFFF_FFFF
        at = PAGE_BYTES * (1 + (seed >> 8) % pages)
        disk[at : at + PAGE_BYTES] = struct.pack("<I", count) * (PAGE_BYTES // 4)
    return bytes(disk)


def writes_of(disk: bytes) -> int:
    """How many writes a disk shows: each one's number stands in its page."""
    numbers = struct.iter_unpack("<I", disk[PAGE_BYTES:])
    return max(number for (number,) in numbers)
