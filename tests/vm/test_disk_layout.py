"""Disks made by parted, sgdisk and mkfs, and damaged ones."""

import contextlib
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.errors import VmError
from rha.vm.disk_layout import ESP, boot_disk, recognise

MIB = 1 << 20


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size, "read outside the disk"
        return self.data[offset : offset + length]


def make(path: Path, *command: str) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(64 * MIB)
    subprocess.run([*command], check=True, capture_output=True)
    return path.read_bytes()


def gpt(path: Path, *types: str) -> bytes:
    words = [word for n, kind in enumerate(types, 1) for word in (f"--new={n}:0:+8M", f"--typecode={n}:{kind}")]
    return make(path, "sgdisk", *words, str(path))


def parted(path: Path, *words: str) -> bytes:
    return make(path, "parted", "-s", str(path), *words)


def with_boot_code(data: bytes, code: bytes = b"\xeb\x63GRUB ") -> bytes:
    return code + data[len(code) :]


def test_gpt_with_esp(tmp_path):
    layout = recognise(Bytes(gpt(tmp_path / "d", "ef00", "8300")))
    assert (layout.table, layout.firmware, layout.why) == ("gpt", "uefi", "GPT with an EFI system partition")
    assert [(part.number, part.offset, part.length) for part in layout.partitions] == [
        (1, MIB, 8 * MIB),
        (2, 9 * MIB, 8 * MIB),
    ]
    assert layout.partitions[0].kind == str(ESP)


def test_gpt_with_bios_boot(tmp_path):
    data = gpt(tmp_path / "d", "ef02", "8300")
    assert recognise(Bytes(data)).firmware is None
    layout = recognise(Bytes(with_boot_code(data)))
    assert (layout.firmware, layout.why) == ("bios", "GPT with a BIOS boot partition and boot code in the MBR")


def test_gpt_copy_stands_in(tmp_path):
    data = bytearray(gpt(tmp_path / "d", "ef00"))
    data[512:1024] = bytes(512)
    assert recognise(Bytes(bytes(data))).firmware == "uefi"


def test_gpt_damaged_twice(tmp_path):
    data = bytearray(gpt(tmp_path / "d", "ef00"))
    data[600] ^= 1
    data[-512] ^= 1
    with pytest.raises(VmError) as caught:
        recognise(Bytes(bytes(data)))
    assert caught.value.what == "the GPT is damaged"


def test_gpt_damaged_entries_are_not_believed(tmp_path):
    data = bytearray(gpt(tmp_path / "d", "ef00"))
    data[1024] ^= 1
    assert recognise(Bytes(bytes(data))).firmware == "uefi"  # the copy's entries
    data[-512 * 33] ^= 1
    with pytest.raises(VmError, match="damaged"):
        recognise(Bytes(bytes(data)))


def test_mbr_with_grub(tmp_path):
    data = parted(tmp_path / "d", "mklabel", "msdos", "mkpart", "primary", "1MiB", "100%")
    layout = recognise(Bytes(with_boot_code(data)))
    assert (layout.table, layout.firmware, layout.why) == ("mbr", "bios", "GRUB in the MBR")


def test_mbr_by_parted_alone_is_a_guess(tmp_path):
    layout = recognise(Bytes(parted(tmp_path / "d", "mklabel", "msdos", "mkpart", "primary", "1MiB", "100%")))
    assert not layout.sure


def test_mbr_without_code(tmp_path):
    data = parted(tmp_path / "d", "mklabel", "msdos", "mkpart", "primary", "1MiB", "100%")
    assert recognise(Bytes(bytes(440) + data[440:])).firmware is None


def test_mbr_active_partition(tmp_path):
    data = parted(tmp_path / "d", "mklabel", "msdos", "mkpart", "primary", "1MiB", "100%", "set", "1", "boot", "on")
    data = data[:MIB] + b"\xeb\x3c\x90".ljust(510, b"\1") + b"\x55\xaa" + data[MIB + 512 :]
    layout = recognise(Bytes(data))
    assert (layout.firmware, layout.why, layout.sure) == (
        "bios",
        "boot code in the MBR and in active partition 1",
        True,
    )


def test_mbr_with_esp(tmp_path):
    data = parted(tmp_path / "d", "mklabel", "msdos", "mkpart", "primary", "1MiB", "9MiB", "set", "1", "esp", "on")
    assert recognise(Bytes(data)).firmware == "uefi"


@pytest.mark.parametrize("mkfs", ["mkfs.ext4", "mkfs.vfat"])
def test_bare_file_system(tmp_path, mkfs):
    layout = recognise(Bytes(make(tmp_path / "d", mkfs, str(tmp_path / "d"))))
    assert (layout.firmware, layout.partitions) == (None, ())


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_tiny_disks(size):
    assert recognise(Bytes(bytes(size))).firmware is None


def test_boot_disk_is_the_first_that_boots(tmp_path):
    empty, esp = recognise(Bytes(bytes(MIB))), recognise(Bytes(gpt(tmp_path / "d", "ef00")))
    assert boot_disk([empty, esp])[:2] == (1, "uefi")
    with pytest.raises(VmError) as caught:
        boot_disk([empty])
    assert caught.value.cause == "disk 0: no partition table and no boot sector"


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([0xEE, 0x83, 0xEF]),
    extent=st.binary(min_size=8, max_size=8),
    header_bytes=st.integers(0, 600),
    start=st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1)),
    count=st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
    entry_bytes=st.one_of(st.sampled_from([0, 1, 127, 128, 256]), st.integers(0, 2**32 - 1)),
)
def test_hostile_bytes_never_read_outside(kind, extent, header_bytes, start, count, entry_bytes):
    """Headers with a right checksum and wrong figures. `Bytes.read` asserts its bounds; only VmError may come out."""
    disk = bytearray(8192)
    disk[450], disk[454:462], disk[510:512] = kind, extent, b"\x55\xaa"
    header = bytearray(struct.pack("<8sIII", b"EFI PART", 0x10000, header_bytes, 0).ljust(512, b"\0"))
    struct.pack_into("<QIII", header, 72, start, count, entry_bytes, zlib.crc32(b""))
    struct.pack_into("<I", header, 16, zlib.crc32(header[:header_bytes]))
    disk[512:1024] = header
    with contextlib.suppress(VmError):
        recognise(Bytes(bytes(disk)))
