"""The device stacks that are tried: how each is built in a machine, and what of it is watched. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmlab.disk import Bus, Disk

MIB = 1 << 20
# Small, since dm-crypt shows an unwritten disk as noise that has to be sent, at 1 MB/s under emulation. mkfs.btrfs
# wants 109 MiB, mkfs.xfs 300 unless it is told that nobody will ask for support.
DISK_BYTES = {"ext4": 72 * MIB, "xfs": 72 * MIB, "btrfs": 128 * MIB}
MKFS = {"ext4": "mkfs.ext4 -q", "xfs": "mkfs.xfs -q --unsupported", "btrfs": "mkfs.btrfs -q"}

FileSystem = Literal["ext4", "xfs", "btrfs"]
FILE_SYSTEMS: tuple[FileSystem, ...] = ("ext4", "xfs")
BUSES: tuple[Bus, ...] = ("virtio", "scsi", "nvme", "ahci")
_BUS_NAMES = {"virtio": "virtio-blk", "scsi": "virtio-scsi", "nvme": "NVMe", "ahci": "AHCI"}


@dataclass(frozen=True)
class Stack:
    """`name` as the table shows it, `key` short and fit for file names. `disks`: (name, bytes, bus) of the emulated
    disks it stands on. `build` and `remove` are bash scripts, `remove` empty where nothing is layered; `top` the device
    that carries the file system."""

    name: str
    key: str
    fs: FileSystem
    disks: tuple[tuple[str, int, Bus], ...]
    build: str
    remove: str
    top: str

    @property
    def is_layered(self) -> bool:
        """The top is a device of its own, above the disks."""
        return bool(self.remove)

    @property
    def mount_point(self) -> str:
        """Where it is mounted in the machine."""
        return f"/mnt/lab/{self.key}"


def by_id(bus: Bus, name: str) -> str:
    """A disk's path in the machine."""
    return Disk(name, Path(), bus).path


def on_whole_disks() -> list[Stack]:
    """Every bus with every file system, and btrfs once, straight on the disk."""
    pairs: list[tuple[Bus, FileSystem]] = [(bus, fs) for bus in BUSES for fs in FILE_SYSTEMS]
    return [_whole(bus, fs) for bus, fs in [*pairs, ("virtio", "btrfs")]]


def _whole(bus: Bus, fs: FileSystem) -> Stack:
    name = f"{bus}-{fs}"
    return Stack(
        f"{_BUS_NAMES[bus]} disk, {fs}", name, fs, ((name, DISK_BYTES[fs], bus),), "true", "", by_id(bus, name)
    )


def on_partitions() -> list[Stack]:
    """The same in the second partition, which begins at an odd MiB."""
    return [_partition(bus, fs) for bus in BUSES for fs in FILE_SYSTEMS]


def _partition(bus: Bus, fs: FileSystem) -> Stack:
    name = f"{bus}-p-{fs}"
    disk = by_id(bus, name)
    table = r"label: gpt\nstart=1MiB, size=6MiB\nstart=7MiB\n"
    build = f"printf '{table}' | sfdisk -q {disk} && udevadm settle && test -b {disk}-part2"
    return Stack(
        f"{_BUS_NAMES[bus]} partition, {fs}",
        name,
        fs,
        ((name, DISK_BYTES[fs], bus),),
        build,
        "",
        f"{disk}-part2",
    )


def layered() -> list[Stack]:
    """Device mapper and md, each with every file system, on SCSI disks."""
    makers = (_linear, _thin, _crypt, _raid0, _raid1)
    return [make(fs) for make in makers for fs in FILE_SYSTEMS]


def _scsi(key: str, fs: FileSystem, count: int) -> tuple[tuple[tuple[str, int, Bus], ...], str]:
    """Disks of a stack, and their paths as words of a shell."""
    names = [key] if count == 1 else [f"{key}-{i}" for i in range(count)]
    return tuple((name, DISK_BYTES[fs], "scsi") for name in names), " ".join(by_id("scsi", name) for name in names)


def _linear(fs: FileSystem) -> Stack:
    key = f"lvm-{fs}"
    disks, path = _scsi(key, fs, 1)
    group = f"linear_{fs}"
    build = f"vgcreate -qq -y {group} {path} && lvcreate -qq -y -W n -l 100%FREE -n lv {group}"
    return Stack(f"LVM linear, {fs}", key, fs, disks, build, f"vgchange -qq -an {group}", f"/dev/{group}/lv")


def _thin(fs: FileSystem) -> Stack:
    key = f"thin-{fs}"
    disks, path = _scsi(key, fs, 1)
    group = f"thin_{fs}"
    build = (
        f"vgcreate -qq -y {group} {path} && lvcreate -qq -y --type thin-pool -l 80%FREE -n pool {group}"
        f" && lvcreate -qq -y --type thin -V {DISK_BYTES[fs]}b --thinpool pool -n lv {group}"
    )
    return Stack(f"LVM thin, {fs}", key, fs, disks, build, f"vgchange -qq -an {group}", f"/dev/{group}/lv")


def _crypt(fs: FileSystem) -> Stack:
    key = f"crypt-{fs}"
    disks, path = _scsi(key, fs, 1)
    # A password of the lab and few rounds: what is tried is the device, not the key's strength.
    luks = "--key-file /root/luks.key --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    build = (
        "[ -e /root/luks.key ] || head -c 64 /dev/urandom >/root/luks.key; "
        f"cryptsetup -q luksFormat {luks} {path} && cryptsetup open --key-file /root/luks.key {path} {key}"
    )
    return Stack(f"dm-crypt, {fs}", key, fs, disks, build, f"cryptsetup close {key}", f"/dev/mapper/{key}")


def _raid0(fs: FileSystem) -> Stack:
    return _md(0, fs)


def _raid1(fs: FileSystem) -> Stack:
    return _md(1, fs)


def _md(level: int, fs: FileSystem) -> Stack:
    key = f"raid{level}-{fs}"
    disks, paths = _scsi(key, fs, 2)
    array = f"/dev/md/{key}"
    build = (
        f"mdadm --quiet --create {array} --run --homehost=any --metadata=1.2 --level={level} --raid-devices=2 {paths}"
        f" && udevadm settle && mdadm --wait {array} || true; test -b {array}"
    )
    return Stack(f"md raid{level}, {fs}", key, fs, disks, build, f"mdadm --quiet --stop {array}", array)
