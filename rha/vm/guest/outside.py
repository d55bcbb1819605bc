"""Starts the process that looks into a guest (child.py), and ends it when time is up.

The disks reach it as NBD exports of a storage daemon of ours: so it needs no right to any file, and what libguestfs
writes is in the overlays once the daemon has ended. It runs as the user that libvirt gives to VMs, never as root: who
breaks out of libguestfs's VM then stands where who breaks out of a substitute would.
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from rha.decoding import NotReadable, from_json
from rha.errors import HostError, VmError
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.units import show_seconds
from rha.vm.guest import kernel
from rha.vm.guest.place import place
from rha.vm.guest.travel import Answer, Request

USERS = ("libvirt-qemu", "qemu", "nobody")  # Debian's, others', and where libvirt is not installed
HINT = "apt install python3-guestfs libguestfs-tools; libguestfs-test-tool says more"
# Files of the small VM, built when libguestfs was updated. Not in /var/tmp, its default, where anybody could be first.
CACHE = Path("/var/cache/rha/libguestfs")
SAID_CHARACTERS = 1000  # of one sentence
MAX_ANSWER_BYTES = 64 << 20


def why_not() -> HostError | None:
    """The reason why no guest can be looked into on this host, or None. Starts nothing."""
    if importlib.util.find_spec("guestfs") is None:
        return HostError("libguestfs is missing", cause="there is no Python module guestfs", hint=HINT)
    if os.geteuid() != 0:
        return HostError("a guest can only be changed by root", cause=f"user {os.geteuid()}", hint="sudo rha …")
    try:
        kernel.environment()
    except HostError as error:
        return error
    return None


def run(disks: Sequence[ImageSpec], request: Request, limit: float) -> Answer:
    """Does what `request` asks, on images that nobody else has open; its exports and user are filled in here.

    Raises HostError when this host cannot do it, StorageError when an image cannot be opened, VmError when it fails or
    takes longer than `limit` seconds; the disks may then be half changed.
    """
    refusal = why_not()
    if refusal:
        raise refusal
    uid, gids = _user()
    with place() as folder:
        own = folder / "own"  # the process's: libguestfs's sockets, the copy of an initramfs
        own.mkdir(mode=0o700)
        os.chown(own, uid, gids[0])
        CACHE.mkdir(parents=True, exist_ok=True)
        os.chown(CACHE, uid, gids[0])
        with StorageDaemon(disks, folder / "disks") as daemon:
            daemon.folder.chmod(0o711)
            os.chown(daemon.socket, uid, gids[0])
            exports = [(str(daemon.socket), disk.name) for disk in disks]
            asked = msgspec.structs.replace(request, exports=exports, uid=uid, gids=gids)
            answer = _ask(asked, own, limit)
    if answer.error:
        raise VmError(answer.error, cause=answer.cause, hint="libguestfs-test-tool")
    return answer


def _user() -> tuple[int, list[int]]:
    """uid and groups; that of /dev/kvm is among them."""
    for name in USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            groups = [group.gr_gid for group in grp.getgrall() if group.gr_name == "kvm" or name in group.gr_mem]
            return user.pw_uid, list(dict.fromkeys([user.pw_gid, *groups]))
    raise HostError("no user to run libguestfs as", cause=f"none of {', '.join(USERS)} exists", hint="adduser --system")


def _ask(request: Request, own: Path, limit: float) -> Answer:
    """By files and not by pipes: a process that writes without end fills no memory of ours."""
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaint:
        asked.write(msgspec.json.encode(request))
        asked.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rha.vm.guest.child"],
                stdin=asked,
                stdout=said,
                stderr=complaint,
                env=_environment(request, own),
                start_new_session=True,  # libguestfs's QEMU is in the same process group, and ends with it
            )
        except OSError as error:
            raise HostError("the process for the guest does not start", cause=str(error)) from error
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired as error:
            cause = f"libguestfs under {'emulation' if request.tcg else 'kvm'}"
            raise VmError(f"the guest is not adapted after {show_seconds(limit)}", cause=cause, hint=HINT) from error
        finally:
            _end(process)
        return _understood(_start_of(said), _start_of(complaint), status)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it stays, however it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _start_of(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MAX_ANSWER_BYTES)


def _understood(said: bytes, complaint: bytes, status: int) -> Answer:
    """The answer, its sentences fit for a terminal: names in them are the guest's. Raises VmError."""
    try:
        answer = from_json(said, Answer)
    except NotReadable as error:  # it may be anybody by now
        words = plain(complaint.decode(errors="replace").strip()[-SAID_CHARACTERS:])
        cause = f"exit status {status}: {words or 'it said nothing'}"
        raise VmError("the process for the guest has died", cause=cause, hint=HINT) from error
    answer.said, answer.warnings = [*map(plain, answer.said)], [*map(plain, answer.warnings)]
    for field in ("error", "cause", "system", "bus_why"):
        setattr(answer, field, plain(getattr(answer, field)))
    return answer


def plain(text: str) -> str:
    """One line of printable characters, not without end."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:SAID_CHARACTERS].strip()


def _environment(request: Request, own: Path) -> dict[str, str]:
    """Nothing of ours but the way to the programs."""
    settings = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"} if request.tcg else {}
    return {
        "PATH": os.defpath if not os.environ.get("PATH") else os.environ["PATH"],
        "HOME": str(own),
        "TMPDIR": str(own),
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": str(CACHE),
        **settings,
        **kernel.environment(),
    }
