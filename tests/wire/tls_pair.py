"""Two ends of one TLS connection on loopback: a master's and its appliance's."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rha import pki
from rha.wire import tls
from rha.wire.frames import FrameType, Header
from rha.wire.stream import FrameReader

TIMEOUT = 60.0


def issue(folder: Path, scenario: str) -> Path:
    """Certificates of both in an empty folder; returns it."""
    pki.init(folder, "Test")
    pki.issue_appliance(folder, "a", ["127.0.0.1"])
    pki.issue_master(folder, scenario)
    return folder


@contextmanager
def connected(keys: Path, scenario: str) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """The master's end and the appliance's."""
    server = tls.server_context(keys / "ca.pem", keys / "appliance-a.pem", keys / "appliance-a.key")
    client = tls.client_context(
        *(keys / name for name in ("ca.pem", f"master-{scenario}.pem", f"master-{scenario}.key"))
    )
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        found: list[ssl.SSLSocket] = []
        accepting = threading.Thread(target=lambda: found.append(tls.accept(listener.accept()[0], server, TIMEOUT)[0]))
        accepting.start()
        master = stack.enter_context(tls.connect(f"127.0.0.1:{listener.getsockname()[1]}", client, TIMEOUT))
        accepting.join()
        yield master, stack.enter_context(found[0])


def heard(reader: FrameReader, kind: FrameType) -> tuple[Header, bytes]:
    """The next frame of this kind; others are passed over."""
    while True:
        header, payload = reader.read()
        if header.type is kind:
            return header, bytes(payload)
