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

import msgspec

from rha.errors import HostError, VmError
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.units import show_seconds
from rha.vm.guest import kernel
from rha.vm.guest.travel import Answer, Request

USERS = ("libvirt-qemu", "qemu", "nobody")  # Debian's, others', and where libvirt is not installed
HINT = "apt install python3-guestfs libguestfs-tools; libguestfs-test-tool says more"
SAID_BYTES = 1000


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
    with tempfile.TemporaryDirectory(prefix="rha-guest-") as place:
        Path(place).chmod(0o711)
        own = Path(place, "own")  # the process's: libguestfs's sockets, the copy of an initramfs
        own.mkdir(mode=0o700)
        os.chown(own, uid, gids[0])
        with StorageDaemon(disks, Path(place, "disks")) as daemon:
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
            return user.pw_uid, [user.pw_gid, *groups]
    raise HostError("no user to run libguestfs as", cause=f"none of {', '.join(USERS)} exists", hint="adduser --system")


def _ask(request: Request, own: Path, limit: float) -> Answer:
    command = [sys.executable, "-m", "rha.vm.guest.child"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(request, own),
            start_new_session=True,  # libguestfs's QEMU is in the same process group, and ends with it
        )
    except OSError as error:
        raise HostError("the process for the guest does not start", cause=str(error)) from error
    try:
        said, complaint = process.communicate(msgspec.json.encode(request), timeout=limit)
    except subprocess.TimeoutExpired as error:
        cause = f"libguestfs under {'emulation' if request.tcg else 'kvm'}"
        raise VmError(f"the guest is not adapted after {show_seconds(limit)}", cause=cause, hint=HINT) from error
    finally:
        _end(process)
    return _understood(said, complaint, process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it stays, however it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _understood(said: bytes, complaint: bytes, status: int) -> Answer:
    try:
        return msgspec.json.decode(said, type=Answer)
    except msgspec.MsgspecError as error:
        words = complaint.decode(errors="replace").strip()[-SAID_BYTES:]
        cause = f"exit status {status}: {words or 'it said nothing'}"
        raise VmError("the process for the guest has died", cause=cause, hint=HINT) from error


def _environment(request: Request, own: Path) -> dict[str, str]:
    """Nothing of ours but the way to the programs. The small VM's files are built once and kept in /var/tmp."""
    settings = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"} if request.tcg else {}
    return {
        "PATH": os.defpath if not os.environ.get("PATH") else os.environ["PATH"],
        "HOME": str(own),
        "TMPDIR": str(own),
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": "/var/tmp",
        **settings,
        **kernel.environment(),
    }
