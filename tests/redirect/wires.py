"""Hosts in network and UTS namespaces without a name, on one Ethernet segment. All ends with their descriptors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_NEWNET, _NEWUTS = 0x40000000, 0x04000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """A host: its own network and its own name."""

    def __init__(self) -> None:
        def make() -> list[int]:
            assert _libc.unshare(_NEWNET | _NEWUTS) == 0, os.strerror(ctypes.get_errno())
            return [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("net", "uts")]

        self.net, self.uts = _in_thread(make)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.net}"

    @property
    def prefix(self) -> list[str]:
        """Words before a command that shall run on this host."""
        return ["nsenter", f"--net={self.path}", f"--uts=/proc/{os.getpid()}/fd/{self.uts}", "--"]

    def run(self, *words: str) -> str:
        done = subprocess.run([*self.prefix, *words], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def ip(self, *words: str) -> str:
        return self.run("ip", *words)

    def call(self, function: Callable[[], T]) -> T:
        """The function as this host: a thread enters it and ends. What it raises is raised here."""

        def inside() -> T:
            assert _libc.setns(self.net, _NEWNET) == 0
            assert _libc.setns(self.uts, _NEWUTS) == 0
            return function()

        return _in_thread(inside)

    def mac(self) -> str:
        return self.ip("-o", "link", "show", "eth0").split("link/ether ")[1].split()[0]

    def addresses(self) -> set[str]:
        """What eth0 has, without link-local."""
        words = self.ip("-o", "address", "show", "dev", "eth0").split()
        return {words[i + 1] for i, word in enumerate(words) if word.startswith("inet") and words[i + 1][:4] != "fe80"}

    def neighbour(self, address: str) -> str:
        """The MAC that this host has for another's address; empty: none."""
        words = self.ip("neigh", "show", address).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def reaches(self, address: str) -> bool:
        done = subprocess.run([*self.prefix, "ping", "-n", "-c1", "-W1", address], capture_output=True, check=False)
        return done.returncode == 0

    def close(self) -> None:
        os.close(self.net)
        os.close(self.uts)


class Segment:
    """A bridge, and the hosts on it; each has `eth0`."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._bridge = Host()
        self._bridge.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self._bridge.ip("link", "set", "br0", "up")

    def host(self, *addresses: str) -> Host:
        """A new host on the segment. Its addresses are usable at once (`nodad`)."""
        host, port = Host(), f"port{len(self._hosts)}"
        self._hosts.append(host)
        host.ip("link", "add", "eth0", "type", "veth", "peer", "name", port)
        host.ip("link", "set", port, "netns", self._bridge.path)
        self._bridge.ip("link", "set", port, "master", "br0", "up")
        host.ip("link", "set", "eth0", "up")
        for address in addresses:
            host.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        return host

    def unplug(self, host: Host) -> None:
        self._bridge.ip("link", "set", f"port{self._hosts.index(host)}", "nomaster")

    def plug(self, host: Host) -> None:
        self._bridge.ip("link", "set", f"port{self._hosts.index(host)}", "master", "br0")

    def close(self) -> None:
        for host in (*self._hosts, self._bridge):
            host.close()


def eventually(question: Callable[[], object], seconds: float = 10) -> None:
    """Asks until the answer is true."""
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, question
        time.sleep(0.02)


def _in_thread(function: Callable[[], T]) -> T:
    """Namespaces are a thread's."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
