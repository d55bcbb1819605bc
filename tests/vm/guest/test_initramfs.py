"""Which modules an initramfs holds: archives made by cpio and the usual compressors, and what is damaged or hostile."""

import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from rha.vm.guest import initramfs
from rha.vm.guest.initramfs import module_name, modules
from rha.vm.guest.tree import Unknown

DRIVERS = "lib/modules/6.1.0-9/kernel/drivers"
FILES = {
    f"usr/{DRIVERS}/block/virtio_blk.ko": 70_000,
    f"usr/{DRIVERS}/virtio/virtio-pci.ko.xz": 3,
    f"{DRIVERS}/ata/ahci.ko.zst": 0,
    "lib/modules/6.1.0-9/modules.dep": 5000,
    "etc/ahci.ko.conf": 9,
    "bin/sd_mod.ko": 9,
}
EXPECTED = {"virtio_blk", "virtio_pci", "ahci"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """Made by cpio(1)."""
    folder = tmp_path_factory.mktemp("initramfs")
    return packed(folder, FILES)


def packed(folder: Path, files: dict[str, int]) -> bytes:
    for name, size in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(range(251)) * (size // 251 + 1))
    names = "\n".join(str(path.relative_to(folder)) for path in folder.rglob("*"))
    command = ["cpio", "--quiet", "-o", "-H", "newc"]
    return subprocess.run(command, cwd=folder, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout


def piped(data: bytes, *command: str) -> bytes:
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


PACKERS = {
    "plain": lambda data: data,
    "gzip": lambda data: piped(data, "gzip"),
    "xz": lambda data: piped(data, "xz", "--check=crc32"),
    "lzma": lambda data: piped(data, "xz", "--format=lzma"),
    "zstd": lambda data: piped(data, "zstd", "-q", "-19"),
    "bzip2": lambda data: piped(data, "bzip2"),
    "lz4 frame": lambda data: piped(data, "lz4", "-q"),
    "lz4 legacy": lambda data: piped(data, "lz4", "-q", "-l"),
}


def found(data: bytes, piece: int = initramfs.PIECE_BYTES) -> set[str]:
    file = BytesIO(data)
    return modules(lambda: file.read(piece))


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_names_of_its_modules(archive, pack):
    assert found(pack(archive)) == EXPECTED


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_behind_microcode_and_before_another_one(archive, pack, tmp_path):
    """As distributions put them together: a plain archive, zeros up to the next sector, the packed one, a third."""
    early = packed(tmp_path / "early", {"kernel/x86/microcode/GenuineIntel.bin": 100_000})
    late = packed(tmp_path / "late", {f"{DRIVERS}/scsi/sd_mod.ko": 10})
    whole = early + bytes(-len(early) % 4096) + pack(archive) + bytes(508) + pack(late)
    if pack is PACKERS["lz4 legacy"]:
        whole = early + pack(archive) + pack(late)  # nothing says where it ends: zeros would be a block's length
    assert found(whole) == EXPECTED | {"sd_mod"}


def test_read_in_small_pieces(archive):
    assert found(PACKERS["zstd"](archive), piece=7) == EXPECTED


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hsqs and so on", "not known"),
        (b"070701" + b"z" * 200, "damaged"),
        (b"070701", "damaged"),
        (b"\x1f\x8b\x08" + b"\xff" * 50, "cannot be unpacked"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "cannot be unpacked"),
        (b"\x02\x21\x4c\x18\x08\0\0\0" + b"\xff" * 8, "cannot be unpacked"),
        (b"070701" + b"0" * 88 + b"ffffffff" + b"0" * 8, "a name of 4294967295 bytes"),
    ],
)
def test_what_is_none_is_refused(data, said):
    with pytest.raises(Unknown, match=said):
        found(data)


def test_cut_off_in_its_middle(archive):
    with pytest.raises(Unknown, match="damaged"):
        found(PACKERS["gzip"](archive)[:-200])


def test_a_bomb_is_stopped(monkeypatch):
    """A size that no file has: what comes out is counted, and not kept."""
    monkeypatch.setattr(initramfs, "MAX_UNPACKED_BYTES", 1 << 20)
    header = b"070701" + b"0" * 48 + b"7fffffff" + b"0" * 32 + b"00000002" + b"0" * 8 + b"a\0"
    with pytest.raises(Unknown, match="come out of it"):
        found(PACKERS["zstd"](header + bytes(16 << 20)))


def test_nothing_is_in_an_empty_file():
    assert found(b"") == set()


def test_a_modules_name():
    assert module_name("kernel/drivers/block/virtio-blk.ko.xz") == "virtio_blk"
