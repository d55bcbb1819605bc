"""Drain: wait until every write submitted before now is on the disk.

Three ways, the safest that the device offers first:

1. *Queue freeze*: storing another value into a queue attribute freezes the request queue until all requests in it are
   done, and
   thaws it again inside the same system call. A kill at any moment leaves at worst one request fewer in a queue of
   hundreds.
2. *File-system freeze* (FIFREEZE, FITHAW): for bio-based devices, which have no such attribute. Whoever is killed
   between the two calls leaves
   the master hanging, so a small process of its own session does it and nothing else (csrc has no part in this).
3. *Waiting until `inflight` is 0*: for a raw device without either; may never happen under load, so it is bounded.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rha.capture.device import Device
from rha.errors import DeviceError

_MOUNTS = Path("/proc/self/mountinfo")
_FREEZE_SECONDS, _INFLIGHT_SECONDS, _POLL_SECONDS = 60.0, 30.0, 0.002

_FREEZER = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, 0xC0045877, 0)  # FIFREEZE
    fcntl.ioctl(fd, 0xC0045878, 0)  # FITHAW
"""


def drain(device: Device) -> str:
    """Waits until the writes submitted before the call are done. Returns the way that was taken, in a few words.

    Raises DeviceError when no way worked within its time.
    """
    if freeze_queue(device.queue):
        return "queue freeze"
    mounts = mount_points(device)
    if mounts:
        freeze_file_systems(mounts)
        return "file-system freeze"
    wait_inflight(device)
    return "no requests in flight"


def freeze_queue(queue: Path) -> bool:
    """True when the queue was frozen and thawed, and so was empty for a moment.

    `nr_requests` is taken since storing it freezes the queue on every kernel since 4.x (blk_mq_update_nr_requests);
    the value has to change for that. False where the device has no such attribute or refuses another value.
    """
    attribute = queue / "nr_requests"
    try:
        before = int(attribute.read_text())
        for value in (before - 1, before):
            attribute.write_text(str(value))
    except (OSError, ValueError):
        return False
    return True


def mount_points(device: Device, mounts: Path = _MOUNTS) -> list[str]:
    """One mount point of each file system on the device, by its major:minor."""
    found = []
    for line in mounts.read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == device.numbers:
            found.append(fields[4].encode().decode("unicode_escape"))
    return found[:1]


def freeze_file_systems(mounts: list[str]) -> None:
    """Freezes and thaws each file system once, in a process that outlives us.

    Raises DeviceError when it fails or does not end in time.
    """
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FREEZER, *mounts],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = helper.communicate(timeout=_FREEZE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{', '.join(mounts)} cannot be frozen", cause=f"not done after {_FREEZE_SECONDS} s", hint="dmesg | tail"
        ) from error
    if helper.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise DeviceError(f"{', '.join(mounts)} cannot be frozen", cause=" ".join(last), hint="findmnt")


def wait_inflight(device: Device) -> None:
    """Waits until no request is in flight.

    Raises DeviceError when that does not happen within 30 s.
    """
    end = time.monotonic() + _INFLIGHT_SECONDS
    while time.monotonic() < end:
        if not any(map(int, (device.sys / "inflight").read_text().split())):
            return
        time.sleep(_POLL_SECONDS)
    raise DeviceError(
        f"{device.path} is never idle",
        cause=f"requests were in flight for {_INFLIGHT_SECONDS} s, and its queue cannot be frozen",
        hint="mount a file system from it, or stop the writer during the sync",
    )
