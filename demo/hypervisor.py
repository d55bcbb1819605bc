"""libvirt on this host: answering before the substitute is needed, and without the demo's domains at the end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt

from demo.product import DIES_WITH_US
from rha.errors import HostError

URI = "qemu:///system"
START_SECONDS = 20.0
SYSTEMD = Path("/run/systemd/system")
# What systemd would start by socket. virtlogd first: libvirtd asks it for every domain's log.
SERVICES = ("/usr/sbin/virtlogd", "/usr/sbin/libvirtd")


@contextlib.contextmanager
def running(logs: Path) -> Iterator[None]:
    """libvirt answers inside the block. Where no systemd is, its daemons are ours and end with the block.

    Raises HostError when it cannot be brought to answer.
    """
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else libvirt prints by itself
    started: list[subprocess.Popen[bytes]] = []
    try:
        if _why_silent() is not None:
            started = _start(logs)
            _wait()
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def remove_domains(directory: Path) -> None:
    """Ends and forgets every domain that has a disk below a directory; of an earlier run too."""
    connection = libvirt.open(URI)
    try:
        for domain in connection.listAllDomains():
            if f"'{directory}/" not in domain.XMLDesc():
                continue
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    finally:
        connection.close()


def _start(logs: Path) -> list[subprocess.Popen[bytes]]:
    if SYSTEMD.is_dir():
        subprocess.run(["systemctl", "start", "libvirtd"], check=False)  # whether it worked is what _wait finds out
        return []
    return [_spawn(program, logs / f"{Path(program).name}.log") for program in SERVICES]


def _spawn(program: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [*DIES_WITH_US, program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait() -> None:
    deadline = time.monotonic() + START_SECONDS
    while (why := _why_silent()) is not None:
        if time.monotonic() > deadline:
            raise HostError("libvirt does not answer", cause=why, hint="systemctl status libvirtd")
        time.sleep(0.2)


def _why_silent() -> str | None:
    try:
        libvirt.open(URI).close()
    except libvirt.libvirtError as error:
        return str(error)
    return None
