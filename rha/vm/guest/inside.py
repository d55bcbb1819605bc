"""Reads and writes a guest's files through libguestfs: a small VM mounts them with a kernel of its own, so that a file
system made to harm harms that VM. All paths are the guest's; links are followed inside it, and never by our last step:
what is read or written is a regular file."""

from __future__ import annotations

import contextlib
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rha.vm.guest import drivers, ifupdown, initramfs, keyfile, netplan, networkd
from rha.vm.guest.adapt import HOSTNAME, HOSTS, NO_CLOUD_INIT
from rha.vm.guest.drivers import Choice
from rha.vm.guest.travel import Kept
from rha.vm.guest.tree import MAX_FILE_BYTES, Edit, File, Tree, Unknown

FOLDERS = (netplan.FOLDER, keyfile.FOLDER, networkd.FOLDER, ifupdown.FOLDER)
FILES = (ifupdown.MAIN, ifupdown.RESOLVER, HOSTNAME, HOSTS, NO_CLOUD_INIT, "/etc/cloud/cloud.cfg")
MAX_FILES = 200  # of one folder
MAX_FILESYSTEMS = 32
MAX_NAMES_BYTES = 4 << 20
MAX_INITRAMFS_BYTES = 512 << 20
_LABEL = "security.selinux"


class Guest:
    """A launched libguestfs handle with the guest's file systems mounted. Every method may raise RuntimeError, which is
    libguestfs's own, with its words."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.system = ""

    def mount(self) -> list[str]:
        """Mounts the guest's root, and its /boot where that is a file system of its own. Returns warnings.

        libguestfs's own `inspect_os` was rejected: it also asks what is of no use here, and takes four times as long
        (16 s of emulation against 4 s). Raises Unknown when there is no Linux.
        """
        devices = _in_order(self._handle.list_filesystems())
        held = {device: self._look(device) for device in devices}
        roots = [device for device, names in held.items() if names and "etc" in names and names & {"usr", "bin"}]
        if not roots:
            raise Unknown(_why_no_system(self._handle.list_filesystems(), held))
        self._handle.mount(roots[0], "/")
        if not _kernels(self._many_names("/boot")):
            boots = [device for device, names in held.items() if _kernels(names or ())]
            for device in boots[:1] if self._handle.is_dir("/boot") else []:
                self._handle.mount(device, "/boot")
        self.system = self._name_of_system()
        return [f"{len(roots)} systems on the disks; the one on {roots[0]} is taken"] if len(roots) > 1 else []

    def _look(self, device: str) -> set[str] | None:
        """What is on top of a file system; None when it cannot be mounted."""
        try:
            self._handle.mount_ro(device, "/")
        except RuntimeError:
            return None
        try:
            return set(self._ls("/"))
        finally:
            self._handle.umount("/")

    def _name_of_system(self) -> str:
        """`Debian GNU/Linux 12 (bookworm)`; empty when it does not say."""
        for path in ("/etc/os-release", "/usr/lib/os-release"):
            file = self.read(path)
            for line in file.text.splitlines() if file else ():
                if line.startswith("PRETTY_NAME="):
                    return "".join(filter(str.isprintable, line[12:].strip("\"' ")))[:80]
        return ""

    # Reading ---------------------------------------------------------------------------------------------------

    def tree(self) -> Tree:
        """The files that decide about network and name."""
        found = dict(self._listed(FILES))
        for folder in FOLDERS:
            names = self._names(folder)
            found |= self._listed(f"{folder}/{name}" for name in names)
            for name in (name for name in names if name.endswith(".network.d")):
                found |= self._listed(f"{folder}/{name}/{inner}" for inner in self._names(f"{folder}/{name}"))
        return found

    def _names(self, folder: str) -> list[str]:
        """Raises Unknown when there are more than anybody has."""
        if not self._handle.is_dir(folder):
            return []
        names = self._ls(folder)
        if len(names) > MAX_FILES:
            raise Unknown(f"{folder} holds {len(names)} files")
        return names

    def _ls(self, folder: str) -> list[str]:
        """Names in a folder, but for those that are no UTF-8: nothing that is looked for is named so, and `ls` of the
        Python binding raises over the first of them."""
        with tempfile.NamedTemporaryFile(prefix="names-") as list_of_names:
            self._handle.ls0(folder, list_of_names.name)
            raw = Path(list_of_names.name).read_bytes()[:MAX_NAMES_BYTES]
        names = [name.decode("utf-8", "replace") for name in raw.split(b"\0")]
        return [name for name in names if name and "\ufffd" not in name]

    def _listed(self, paths: Iterable[str]) -> Iterator[tuple[str, File]]:
        for path in paths:
            file = self.read(path)
            if file is not None:
                yield path, file

    def _status(self, path: str) -> dict[str, int] | None:
        """What lstat says; None: nothing of that name."""
        if not (self._handle.exists(path) or self._handle.is_symlink(path)):
            return None
        return dict(self._handle.lstatns(path))

    def read(self, path: str) -> File | None:
        """A regular file of a size that such a file has; None: there is none."""
        status = self._status(path)
        if status is None or not stat.S_ISREG(status["st_mode"]) or status["st_size"] > MAX_FILE_BYTES:
            return None
        content = self._handle.read_file(path) if status["st_size"] else b""
        return File(bytes(content), status["st_uid"], status["st_gid"], stat.S_IMODE(status["st_mode"]))

    # Which bus -------------------------------------------------------------------------------------------------

    def bus(self) -> Choice:
        """Looked up in the newest kernel of /boot and its initramfs."""
        try:
            kernel = drivers.newest_kernel(self._many_names("/boot"))
            if kernel is None:
                return drivers.unknown("there is no kernel in its /boot")
            built_in = self._built_in(kernel.version)
            is_known = built_in.issuperset(drivers.NEEDS["virtio"]) or not kernel.initramfs
            inside = set() if is_known else self._modules_in(f"/boot/{kernel.initramfs}")
        except Unknown as error:
            return drivers.unknown(str(error))
        return drivers.choose(kernel, built_in, inside)

    def _many_names(self, folder: str) -> list[str]:
        return self._ls(folder)[: 10 * MAX_FILES] if self._handle.is_dir(folder) else []

    def _built_in(self, version: str) -> set[str]:
        """Where the boot loader's name of the kernel is not its version, the only folder of modules is meant."""
        versions = self._many_names("/lib/modules")
        folder = version if version in versions else versions[0] if len(versions) == 1 else ""
        file = self.read(f"/lib/modules/{folder}/modules.builtin") if folder else None
        return {initramfs.module_name(line.strip()) for line in file.text.splitlines()} if file else set()

    def _modules_in(self, path: str) -> set[str]:
        """Raises Unknown."""
        status = self._status(self._handle.realpath(path))
        if status is None or not stat.S_ISREG(status["st_mode"]) or status["st_size"] > MAX_INITRAMFS_BYTES:
            raise Unknown(f"{path} is no file of a usual size")
        with tempfile.NamedTemporaryFile(prefix="initramfs-") as copy:
            self._handle.download(path, copy.name)
            with Path(copy.name).open("rb") as file:
                try:
                    return initramfs.modules(lambda: file.read(initramfs.PIECE_BYTES))
                except Unknown as error:
                    raise Unknown(f"{path}: {error}") from error

    # Writing ---------------------------------------------------------------------------------------------------

    def write(self, edits: Iterable[Edit]) -> list[Kept]:
        """Writes, in place: owner, mode and labels of what is there stay. Returns what was there before, in order.

        Raises Unknown when something else than a regular file is in the way.
        """
        return [self._replace(edit) if self._status(edit.path) else self._create(edit) for edit in edits]

    def _replace(self, edit: Edit) -> Kept:
        before, status = self.read(edit.path), self._status(edit.path)
        if before is None or status is None:
            raise Unknown(f"{edit.path} is no regular file of a usual size")
        self._handle.write(edit.path, edit.content)
        return Kept(path=edit.path, before=before, after=edit.content, modified=_modified(status))

    def _create(self, edit: Edit) -> Kept:
        made, folder = [], edit.path.rpartition("/")[0]
        while not self._handle.is_dir(folder, followsymlinks=True):
            made.append(folder)
            folder = folder.rpartition("/")[0]
        for path in (*reversed(made), edit.path):
            if path == edit.path:
                self._handle.write(path, edit.content)
            else:
                self._handle.mkdir(path)
            self._handle.chmod(edit.mode if path == edit.path else 0o755, path)
            self._label_as(path, path.rpartition("/")[0] or "/")
        return Kept(path=edit.path, before=None, after=edit.content, made=made)

    def _label_as(self, path: str, folder: str) -> None:
        """What SELinux would have given it: the folder's label. Most guests have none."""
        with contextlib.suppress(RuntimeError):  # no such attribute
            label = self._handle.lgetxattr(folder, _LABEL)
            self._handle.lsetxattr(_LABEL, label.decode(), len(label), path)

    def restore(self, kept: Iterable[Kept]) -> list[Kept]:
        """Every file as it was before `write`. Returns those that somebody has changed since, with what they held."""
        changed = []
        for one in reversed(list(kept)):
            now = self.read(one.path)
            if now is not None and now.content != one.after and (one.before is None or now != one.before):
                changed.append(Kept(path=one.path, before=now, after=one.before.content if one.before else b""))
            if one.before is None:
                self._remove(one)
            else:
                self._put_back(one, one.before)
        return changed

    def _remove(self, one: Kept) -> None:
        status = self._status(one.path)
        if status and not stat.S_ISDIR(status["st_mode"]):
            self._handle.rm(one.path)
        for folder in one.made:
            with contextlib.suppress(RuntimeError):  # somebody has put something there
                self._handle.rmdir(folder)

    def _put_back(self, one: Kept, before: File) -> None:
        """Something that is no regular file any more is replaced: a link would lead the write elsewhere."""
        status = self._status(one.path)
        if status and not stat.S_ISREG(status["st_mode"]):
            if stat.S_ISDIR(status["st_mode"]):
                raise Unknown(f"{one.path} is a folder now; its old content stays kept")
            self._handle.rm(one.path)
        self._handle.write(one.path, before.content)
        if status is None:  # somebody has removed it
            self._label_as(one.path, one.path.rpartition("/")[0])
        self._handle.chown(before.uid, before.gid, one.path)
        self._handle.chmod(before.mode, one.path)
        seconds, rest = divmod(one.modified, 10**9)
        self._handle.utimens(one.path, seconds, rest, seconds, rest)


def _in_order(found: dict[str, str]) -> list[str]:
    """File systems as they are worth looking at: a btrfs as a whole shows its default subvolume, which is the running
    system where there are snapshots."""
    skipped = ("", "unknown", "swap", "crypto_LUKS", "BitLocker", "linux_raid_member", "LVM2_member")
    devices = [device for device, kind in found.items() if kind not in skipped]
    whole = [device for device in devices if not device.startswith("btrfsvol:")]
    parts = [device for device in devices if device.startswith("btrfsvol:") and "snapshot" not in device]
    return [*whole, *parts][:MAX_FILESYSTEMS]


def _kernels(names: Iterable[str]) -> bool:
    return drivers.newest_kernel(names) is not None


def _why_no_system(found: dict[str, str], held: dict[str, set[str] | None]) -> str:
    if any(names and "Windows" in names for names in held.values()):
        return "the guest is Windows, which is left as it is"
    if any(kind in ("crypto_LUKS", "BitLocker") for kind in found.values()):
        return "no system is found on the disks; one of them is encrypted"
    broken = [f"{device} ({found[device]}) cannot be mounted" for device, names in held.items() if names is None]
    return "; ".join(["no system is found on the disks", *broken])


def _modified(status: dict[str, int]) -> int:
    return status["st_mtime_sec"] * 10**9 + status["st_mtime_nsec"]
