"""The disks of an open point as files on this host, and their file systems mounted read-only.

The overlays become raw files (FUSE, by a storage daemon of their own), their file systems loop devices. The loop
devices can be written to: a file system that was in use replays its own journal, into the overlay, as after a power
cut; the point and the replica stay untouched.

What is mounted is noted in the point's folder first, so that a new appliance can clear up after a killed one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from rha.appliance import catalog
from rha.errors import HostError, RhaError, StateError, StorageError
from rha.image.storage_daemon import ImageSpec, StorageDaemon

_NOTES = "mounted.json"
# nouuid: the master's file system may be mounted here already, or another point of it.
_OPTIONS = {"xfs": "ro,nouuid"}
_NOT_FILES = ("swap", "LVM2_member", "linux_raid_member", "crypto_LUKS", "zfs_member")
_SECTOR = 512
_BTRFS_DEVICES_AT = 0x10000 + 0x88  # num_devices of struct btrfs_super_block (include/uapi/linux/btrfs_tree.h)


class FileSystem(NamedTuple):
    """A file system found on a disk. `name`: `root` for a whole disk `root`, `rootp1` for its first partition; `offset`
    and `bytes` on the disk; `kind` as mount wants it."""

    name: str
    file: Path
    offset: int
    bytes: int
    kind: str


class Notes(msgspec.Struct, kw_only=True):
    """What a clear-up needs."""

    directories: list[str] = []
    loops: list[str] = []
    files: list[str] = []


class RawFiles:
    """An open point's disks as raw files, by the disk's name, until `close`. What is written goes to the overlays."""

    def __init__(self, folder: Path, overlays: Sequence[ImageSpec]) -> None:
        """`folder`: the point's. Raises HostError, StorageError; then nothing is left.

        A storage daemon for each disk: QEMU's FUSE exports block on their descriptor, and one that polls while it
        serves a request may take what another's turn is already waiting for.
        """
        self._folder, self._notes = folder, Notes()
        daemons = [
            StorageDaemon([spec], folder / "fuse" / str(number), as_files=True) for number, spec in enumerate(overlays)
        ]
        self.files = {spec.name: daemon.file_of(spec.name) for spec, daemon in zip(overlays, daemons, strict=True)}
        with ExitStack() as stack:
            # The storage daemons die with the thread that started them.
            keeper = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="mount"))
            self._note(files=[str(file) for file in self.files.values()])
            for daemon in daemons:
                keeper.submit(daemon.start).result()
                stack.callback(_stop, keeper, daemon)
            self._stack = stack.pop_all()

    @property
    def directories(self) -> list[str]:
        """Where file systems of it are mounted."""
        return self._notes.directories

    def _note(self, **lists: list[str]) -> None:
        for name, values in lists.items():
            getattr(self._notes, name).extend(values)
        catalog.save(self._folder / _NOTES, self._notes)

    def close(self) -> None:
        """Raises StorageError when the storage daemon did not end well."""
        self._stack.close()


class Mounted(RawFiles):
    """An open point's file systems, mounted until `close`."""

    def __init__(self, folder: Path, overlays: Sequence[ImageSpec], target: Path) -> None:
        """`folder`: the point's; `target`: an empty directory. One file system is mounted there, several in
        directories below it, named after disk and partition.

        Raises StateError when there is nothing to mount or the directory is not empty, HostError, StorageError; then
        nothing stays mounted.
        """
        self._check_target(target)
        super().__init__(folder, overlays)
        with ExitStack() as on_failure:
            on_failure.callback(self._stack.close)
            found = [one for name, file in self.files.items() for one in file_systems(name, file)]
            if not found:
                raise StateError("no file system to mount", cause="none was recognised on the point's disks")
            for one in found:
                self._mount(self._stack, one, target if len(found) == 1 else target / one.name)
            on_failure.pop_all()

    def _check_target(self, target: Path) -> None:
        if not target.is_absolute() or not target.is_dir() or any(target.iterdir()):
            raise StateError(
                f"{target} cannot be mounted on", cause="it is no empty directory", hint=f"mkdir -p {target}"
            )

    def _mount(self, stack: ExitStack, found: FileSystem, where: Path) -> None:
        words = ["losetup", "--find", "--show", "--offset", str(found.offset), "--sizelimit", str(found.bytes)]
        loop = _run([*words, str(found.file)]).strip()
        stack.callback(_run, ["losetup", "--detach", loop])
        if found.kind == "btrfs":
            _give_own_name(Path(loop))
        self._note(loops=[loop], directories=[str(where)])
        if not where.exists():
            where.mkdir()
            stack.callback(where.rmdir)
        _run(["mount", "-t", found.kind, "-o", _OPTIONS.get(found.kind, "ro"), loop, str(where)])
        stack.callback(self._unmount, where)

    def _unmount(self, where: Path) -> None:
        """Raises StorageError when it is in use."""
        if str(where) in self._notes.directories and where.is_mount():
            _run(["umount", str(where)])

    def close(self) -> None:
        """Unmounts. Raises StorageError when a directory is in use; then the point stays, and this may be repeated."""
        for where in self.directories:
            self._unmount(Path(where))
        super().close()


def _give_own_name(loop: Path) -> None:
    """The kernel mounts one btrfs of a UUID at a time, whatever it is mounted with: a second point of it, or the
    master's own, would be refused as existing. The overlay gets another one (its metadata keep theirs). One of several
    disks is left alone: btrfstune would look for the others, and change those too. Where it cannot be done, mount says
    what is in the way."""
    with loop.open("rb") as file:
        file.seek(_BTRFS_DEVICES_AT)
        is_alone = int.from_bytes(file.read(8), "little") == 1
    with suppress(FileNotFoundError):
        if is_alone:
            subprocess.run(["btrfstune", "-f", "-m", str(loop)], capture_output=True, check=False)


def why_hidden() -> str | None:
    """The reason why nobody else on this host sees what this process mounts; None: they do, or it cannot be told."""
    try:
        own, first = (os.stat(f"/proc/{who}/ns/mnt").st_ino for who in ("self", "1"))
    except OSError:
        return None
    return None if own == first else "this process is in a mount namespace of its own"


def _stop(keeper: ThreadPoolExecutor, daemon: StorageDaemon) -> None:
    keeper.submit(daemon.stop).result()


def file_systems(name: str, file: Path) -> Iterator[FileSystem]:
    """What can be mounted of a disk: the whole, or its partitions. Raises HostError, StorageError."""
    table = subprocess.run(["sfdisk", "--json", str(file)], capture_output=True, text=True, check=False)
    parts = json.loads(table.stdout)["partitiontable"] if table.returncode == 0 else {"partitions": []}
    sector = parts.get("sectorsize", _SECTOR)
    places = [
        (f"{name}p{number}", part["start"] * sector, part["size"] * sector)
        for number, part in enumerate(parts["partitions"], 1)
    ]
    for label, offset, size in places or [(name, 0, file.stat().st_size)]:
        kind = _kind(file, offset, size)
        if kind and kind not in _NOT_FILES:
            yield FileSystem(label, file, offset, size, kind)


def _kind(file: Path, offset: int, size: int) -> str:
    words = [
        "blkid",
        "--probe",
        "--offset",
        str(offset),
        "--size",
        str(size),
        "--output",
        "value",
        "--match-tag",
        "TYPE",
    ]
    found = subprocess.run([*words, str(file)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def sweep(folder: Path) -> None:
    """Clears up what a killed appliance has left mounted below `points/`; what stays is only in the way."""
    for notes_file in folder.glob(f"*/{_NOTES}"):
        with suppress(RhaError):
            notes = catalog.load(notes_file, Notes) or Notes()
            _clear(notes, notes_file.parent)


def _clear(notes: Notes, folder: Path) -> None:
    for directory in notes.directories:
        if _is_ours(directory, notes.loops):
            subprocess.run(["umount", "--lazy", directory], capture_output=True, check=False)
    for loop in notes.loops:
        backing = Path("/sys/block", Path(loop).name, "loop", "backing_file")
        with suppress(OSError):
            if backing.read_text().startswith(str(folder)):
                subprocess.run(["losetup", "--detach", loop], capture_output=True, check=False)
    for file in notes.files:
        subprocess.run(["umount", "--lazy", file], capture_output=True, check=False)


def _is_ours(directory: str, loops: Sequence[str]) -> bool:
    found = subprocess.run(["findmnt", "-n", "-o", "SOURCE", directory], capture_output=True, text=True, check=False)
    return found.stdout.strip() in loops


def _run(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError(f"{words[0]} is missing", cause=str(error), hint="apt-get install mount util-linux") from error
    if done.returncode:
        raise StorageError(f"{words[0]} failed", cause=done.stderr.strip().replace("\n", "; ") or " ".join(words))
    return done.stdout
