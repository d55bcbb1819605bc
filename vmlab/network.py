"""A network segment between machines: a bridge in a namespace that has no name and ends with us."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rha.errors import HostError

# linux/sched.h, linux/if_tun.h
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Card:
    """A network card of a machine: its address, and the open tap device behind it (None: QEMU's user network, with
    `forward`: TCP ports of this host's loopback that lead to ports of the machine)."""

    mac: str
    tap: int | None = None
    forward: tuple[tuple[int, int], ...] = ()


USER = Card("52:54:00:00:00:01")  # a way out, DHCP; this host's loopback is 10.0.2.2


@dataclass(frozen=True)
class Cable:
    """Joins a segment with another, or with this host. `end`: the name of its plug in `segment`."""

    segment: Segment
    end: str

    def plug(self, is_in: bool) -> None:
        """Pulls it out of the segment's bridge, or puts it back."""
        self.segment.ip("link", "set", self.end, *(("master", "br0") if is_in else ("nomaster",)))


class Segment:
    """A layer-2 network. Machines get cards of it; processes of this host may run in it (`prefix`)."""

    def __init__(self) -> None:
        """Raises HostError when the kernel makes no namespace, bridge or tap."""
        self._taps: list[int] = []
        self._cables = 0
        self._namespace = _in_thread(_new_namespace)
        try:
            self.ip("link", "set", "lo", "up")
            self.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            self.ip("link", "set", "br0", "up")
        except HostError:
            os.close(self._namespace)
            raise

    @property
    def path(self) -> str:
        """Its network namespace, for as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    @property
    def prefix(self) -> list[str]:
        """Words before a command that shall run inside the segment."""
        return ["nsenter", f"--net={self.path}", "--"]

    def ip(self, *words: str) -> None:
        """The `ip` command, inside. `ip("address", "add", "10.9.0.254/24", "dev", "br0")` puts this host into it."""
        _ip(self.prefix, *words)

    def card(self) -> Card:
        """A new card, its tap plugged into the bridge. It belongs to one machine, over any number of power cuts."""
        number = len(self._taps)
        self._taps.append(_in_thread(lambda: self._new_tap(f"tap{number}")))
        self.ip("link", "set", f"tap{number}", "master", "br0", "up")
        return Card(f"52:54:00:{self._namespace & 0xFF:02x}:01:{number:02x}", self._taps[-1])

    def plug(self, card: Card, is_in: bool) -> None:
        """Pulls the cable of a card out of the bridge, or puts it back."""
        name = f"tap{self._taps.index(card.tap if card.tap is not None else -1)}"
        self.ip("link", "set", name, *(("master", "br0") if is_in else ("nomaster",)))

    def join(self, other: Segment) -> Cable:
        """A cable between the bridges of two segments."""
        cable, far = self._cable(other.path)
        other.ip("link", "set", far, "master", "br0", "up")
        return cable

    def join_host(self, address: str) -> Cable:
        """A cable to this host, whose own network gets an address on the segment (`10.9.0.1/24`)."""
        cable, far = self._cable(f"/proc/{os.getpid()}/ns/net")
        for words in (("address", "add", address, "dev", far), ("link", "set", far, "up")):
            _ip([], *words)
        return cable

    def _cable(self, far_namespace: str) -> tuple[Cable, str]:
        """The cable, plugged in here, and the name of its far end, which is in no bridge yet."""
        self._cables += 1
        near, far = f"cable{self._cables}", f"rl{os.getpid()}x{self._namespace}x{self._cables}"
        self.ip("link", "add", near, "type", "veth", "peer", "name", far)
        self.ip("link", "set", far, "netns", far_namespace)
        self.ip("link", "set", near, "master", "br0", "up")
        return Cable(self, near), far

    def _new_tap(self, name: str) -> int:
        _call("setns", self._namespace, _CLONE_NEWNET)
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        return tap

    def close(self) -> None:
        """Bridge and taps go with the last descriptor, some time later. Cables go at once: their far ends are in other
        networks."""
        for number in range(1, self._cables + 1):
            with contextlib.suppress(HostError):  # gone with its other end
                self.ip("link", "delete", f"cable{number}")
        for tap in self._taps:
            os.close(tap)
        os.close(self._namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ip(prefix: list[str], *words: str) -> None:
    done = subprocess.run([*prefix, "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError("a network between machines cannot be made", cause=f"ip {' '.join(words)}: {done.stderr}")


def _new_namespace() -> int:
    _call("unshare", _CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _in_thread(make: Callable[[], int]) -> int:
    """A namespace is a thread's: one of its own goes there, opens what is wanted, and ends."""
    made: list[int] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            made.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise HostError("a network between machines cannot be made", cause=str(failed[0]), hint="run as root")
    return made[0]
