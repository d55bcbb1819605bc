"""What a disk boots with, read from its first and last sectors. Pure and bounds-checked: the bytes are a stranger's.

GPT: UEFI specification 2.10, chapter 5 (header at block 1, copy in the last block, CRC-32 over header and entries).
MBR: 446 bytes of boot code, four entries of 16 bytes at 446, signature 55 AA at 510.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rha.errors import VmError
from rha.vm.base import Firmware

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
MBR_ESP, MBR_PROTECTIVE = 0xEF, 0xEE
BLOCK_SIZES = (512, 4096)
MAX_ENTRIES_BYTES = 1 << 20  # 128 entries of 128 bytes are usual; more than this is no table of anybody

_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_MBR_ENTRY = struct.Struct("<B3sB3sII")


class Reader(Protocol):
    """A disk's bytes. `read` gives exactly `length` bytes of a range inside `size`."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


@dataclass(frozen=True)
class Partition:
    """`kind`: GPT type GUID (lower case) or MBR type (`0x83`). `offset`, `length`: bytes. `active`: MBR's boot flag."""

    number: int
    kind: str
    offset: int
    length: int
    active: bool = False


@dataclass(frozen=True)
class Layout:
    """`firmware` None: nothing to boot from was found. `why`: the sentence. `sure` False: a guess, worth a warning."""

    table: Literal["gpt", "mbr", "none"]
    partitions: tuple[Partition, ...]
    firmware: Firmware | None
    why: str
    sure: bool = True


def recognise(disk: Reader) -> Layout:
    """The layout of one disk. Raises VmError when its partition table is damaged beyond its copy."""
    if disk.size < 512:
        return Layout("none", (), None, f"a disk of {disk.size} bytes holds no boot sector")
    first = disk.read(0, 512)
    if first[510:] != b"\x55\xaa":
        return Layout("none", (), None, "no partition table and no boot sector")
    entries = _mbr_partitions(first, disk.size)
    if entries is None:
        return Layout("none", (), None, "a file system without a partition table: no boot loader")
    if any(entry.kind == f"{MBR_PROTECTIVE:#04x}" for entry in entries):
        return _judge_gpt(_gpt_partitions(disk), first)
    return _judge_mbr(disk, entries, first)


def boot_disk(layouts: Sequence[Layout]) -> tuple[int, Firmware, str]:
    """Number, firmware and reason of the first disk of a scenario that boots.

    Raises VmError when none does.
    """
    for number, layout in enumerate(layouts):
        if layout.firmware:
            return number, layout.firmware, layout.why
    raise VmError(
        "no disk of the scenario can boot a substitute VM",
        cause="; ".join(f"disk {number}: {layout.why}" for number, layout in enumerate(layouts)),
        hint="protect the whole boot disk, not a partition; vm.firmware in the scenario overrules this",
    )


def _mbr_partitions(sector: bytes, size: int) -> tuple[Partition, ...] | None:
    """The used entries; None when they are no partition table (a file system's boot sector ends in 55 AA too)."""
    found = []
    for number in range(4):
        status, _, kind, _, start, blocks = _MBR_ENTRY.unpack_from(sector, 446 + 16 * number)
        if status not in (0, 0x80):
            return None
        if kind == 0 or blocks == 0:
            continue
        if start * 512 >= size and kind != MBR_PROTECTIVE:
            return None
        found.append(Partition(number + 1, f"{kind:#04x}", start * 512, blocks * 512, status == 0x80))
    return tuple(found)


def _judge_mbr(disk: Reader, partitions: tuple[Partition, ...], first: bytes) -> Layout:
    if any(part.kind == f"{MBR_ESP:#04x}" for part in partitions):
        return Layout("mbr", partitions, "uefi", "MBR with an EFI system partition")
    if not any(first[:440]):
        return Layout("mbr", partitions, None, "MBR without boot code and without EFI system partition")
    if b"GRUB" in first[:440]:
        return Layout("mbr", partitions, "bios", "GRUB in the MBR")
    if not partitions:
        return Layout("mbr", (), None, "a boot sector of no known loader, and no partition")
    active = [part for part in partitions if part.active]
    if any(_has_boot_sector(disk, part) for part in active):
        return Layout("mbr", partitions, "bios", f"boot code in the MBR and in active partition {active[0].number}")
    why = "boot code of no known loader in the MBR and in no active partition: BIOS is a guess"
    return Layout("mbr", partitions, "bios", why, sure=False)


def _has_boot_sector(disk: Reader, part: Partition) -> bool:
    if part.offset + 512 > disk.size:
        return False
    sector = disk.read(part.offset, 512)
    return sector[510:] == b"\x55\xaa" and any(sector[:440])


def _judge_gpt(partitions: tuple[Partition, ...], first: bytes) -> Layout:
    kinds = {part.kind for part in partitions}
    if str(ESP) in kinds:
        return Layout("gpt", partitions, "uefi", "GPT with an EFI system partition")
    if str(BIOS_BOOT) in kinds and any(first[:440]):
        return Layout("gpt", partitions, "bios", "GPT with a BIOS boot partition and boot code in the MBR")
    if any(first[:440]):
        return Layout(
            "gpt", partitions, "bios", "GPT with boot code in the MBR and no EFI system partition", sure=False
        )
    return Layout("gpt", partitions, None, "GPT without EFI system partition and without boot code in the MBR")


def _gpt_partitions(disk: Reader) -> tuple[Partition, ...]:
    """From the first sound table: block 1, then the copy in the last block. Raises VmError when neither is."""
    faults = []
    for block in BLOCK_SIZES:
        for name, at in (("header", block), ("copy", (disk.size // block - 1) * block)):
            entries = _gpt_entries(disk, at, block)
            if not isinstance(entries, str):
                return entries
            faults.append(f"{name} with {block}-byte blocks: {entries}")
    raise VmError("the GPT is damaged", cause="; ".join(faults), hint="sgdisk --verify on the master's disk")


def _gpt_entries(disk: Reader, at: int, block: int) -> tuple[Partition, ...] | str:
    """The partitions of the table whose header lies at byte `at`, or what is wrong with it."""
    if at < block or at + block > disk.size:
        return "outside the disk"
    sector = disk.read(at, block)
    (magic, _, header_bytes, header_sum, _, _, _, _, _, _, start, count, entry_bytes, entries_sum) = (
        _GPT_HEADER.unpack_from(sector)
    )
    if magic != b"EFI PART":
        return "no signature"
    if not _GPT_HEADER.size <= header_bytes <= block:
        return f"a header of {header_bytes} bytes"
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:header_bytes]) != header_sum:
        return "wrong checksum of the header"
    length = count * entry_bytes
    if entry_bytes < _GPT_ENTRY.size or length > MAX_ENTRIES_BYTES or start * block + length > disk.size:
        return f"{count} entries of {entry_bytes} bytes at block {start}"
    table = disk.read(start * block, length)
    if zlib.crc32(table) != entries_sum:
        return "wrong checksum of the entries"
    return tuple(_used_entries(table, entry_bytes, block))


def _used_entries(table: bytes, entry_bytes: int, block: int) -> list[Partition]:
    found = []
    for number, at in enumerate(range(0, len(table), entry_bytes), 1):
        kind, _, start, last, _, _ = _GPT_ENTRY.unpack_from(table, at)
        if any(kind):
            guid = str(uuid.UUID(bytes_le=kind))
            found.append(Partition(number, guid, start * block, (last - start + 1) * block))
    return found
