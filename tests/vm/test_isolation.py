"""An isolated guest reaches nobody: a real one, the network card's own boot program, asks a web server of the host."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from rha.scenario import Network
from rha.vm.domain_xml import QEMU_NAMESPACE, domain_xml
from tests.vm.test_domain_xml import SPEC

QUIET_SECONDS = 3.0  # after the guest's first try; it tries again every second
USER = replace(SPEC, network=Network(kind="user"))


class Server:
    """On loopback, which the guest calls 10.0.2.2. `asked`: paths."""

    def __init__(self) -> None:
        self.asked = asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET

            def log_message(self, *words: object) -> None:
                pass

        self.http = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with server.http:
        threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        yield server
        server.http.shutdown()


def netdev(xml: str) -> str:
    words = [word.get("value", "") for word in ET.fromstring(xml).iter(f"{{{QEMU_NAMESPACE}}}arg")]
    return words[words.index("-netdev") + 1]


@contextmanager
def booting_from_network(options: str, server: Server, seen: Path, host: str = "10.0.2.2") -> Iterator[None]:
    """A machine whose card gets an address and then fetches a page; every packet is in `seen`."""
    words = [
        "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-display", "none",
        "-nodefaults", "-netdev", f"{options},bootfile=http://{host}:{server.port}/x",
        "-device", "virtio-net-pci,netdev=rha0,bootindex=0", "-object", f"filter-dump,id=d,netdev=rha0,file={seen}",
    ]  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as machine:
        try:
            yield
        finally:
            machine.kill()


def has_tried(seen: Path, port: int, guest: str = "10.0.2.15", host: str = "10.0.2.2") -> bool:
    """Has the guest sent a TCP packet to the server?"""
    ends = re.escape(IPv4Address(guest).packed + IPv4Address(host).packed)
    return (
        bool(re.search(ends + b".." + re.escape(port.to_bytes(2)), seen.read_bytes(), re.S)) if seen.exists() else False
    )


def wait(is_so: object, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_guest_of_a_test_reaches_nobody(server: Server, tmp_path: Path) -> None:
    options = netdev(domain_xml(replace(USER, isolated=True)))
    with booting_from_network(options, server, tmp_path / "seen"):
        wait(lambda: has_tried(tmp_path / "seen", server.port))
        time.sleep(QUIET_SECONDS)
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "guest", "host"),
    [("", "10.0.2.15", "10.0.2.2"), ("192.0.2.1/29", "192.0.2.1", "192.0.2.2")],
    ids=["usual", "of its own"],
)
def test_any_other_guest_would_have(server: Server, tmp_path: Path, address: str, guest: str, host: str) -> None:
    options = netdev(domain_xml(replace(USER, guest_address=address)))
    with booting_from_network(options, server, tmp_path / "seen", host):
        wait(lambda: server.asked)
    assert has_tried(tmp_path / "seen", server.port, guest, host)
