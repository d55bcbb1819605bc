"""Our NBD server, judged by libnbd and qemu-img."""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from rha.errors import StorageError
from rha.image.nbd_server import NbdServer

SIZE = 4 << 20


class Half:
    """The first half is data, the second zeros; one sector cannot be read."""

    bytes = SIZE
    bad = 1 << 20

    def __init__(self) -> None:
        self.content = random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2)

    def read(self, offset: int, length: int) -> memoryview:
        if offset <= self.bad < offset + length and length == 512:
            raise StorageError("damaged")
        return memoryview(self.content)[offset : offset + length]

    def status(self, offset: int, length: int) -> list[tuple[int, bool]]:
        if offset >= SIZE // 2:
            return [(length, True)]
        return [(SIZE // 2 - offset, False), (SIZE, True)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NbdServer]:
    server = NbdServer(tmp_path / "nbd.sock", {"d0": Half()})
    server.start()
    yield server
    server.stop()


def connected(server: NbdServer, *, structured: bool = True) -> nbd.NBD:
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    if structured:
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.set_export_name("d0")
    handle.connect_unix(str(server.path))
    return handle


@pytest.mark.parametrize("structured", [True, False])
def test_reading(server: NbdServer, structured: bool) -> None:
    handle = connected(server, structured=structured)
    assert handle.get_size() == SIZE
    assert handle.is_read_only()
    assert handle.can_multi_conn()
    assert handle.pread(65536, 512) == Half().content[512 : 512 + 65536]
    handle.flush()
    with pytest.raises(nbd.Error):
        handle.pread(512, Half.bad)
    assert handle.pread(512, 0) == Half().content[:512]  # the connection goes on
    handle.shutdown()


def test_status(server: NbdServer) -> None:
    handle, rows = connected(server), []
    handle.block_status(SIZE, 0, lambda context, offset, entries, error: rows.extend(entries) or 0)
    assert rows == [SIZE // 2, 0, SIZE // 2, nbd.STATE_HOLE | nbd.STATE_ZERO]


def test_unknown_export_is_refused(server: NbdServer) -> None:
    handle = nbd.NBD()
    handle.set_export_name("d1")
    with pytest.raises(nbd.Error):
        handle.connect_unix(str(server.path))


@pytest.mark.parametrize("form", ["raw", "qcow2", "vhdx", "vmdk", "vpc"])
def test_qemu_img_converts_and_skips_holes(server: NbdServer, tmp_path: Path, form: str) -> None:
    source, target = f"nbd+unix:///d0?socket={server.path}", tmp_path / f"out.{form}"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, source, str(target)], check=True)
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", str(target), str(back)], check=True)
    assert back.read_bytes()[:SIZE] == Half().content
    assert target.stat().st_blocks * 512 < SIZE


@pytest.mark.parametrize("noise", [b"", b"\0" * 4, b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7\xff\xff\xff\xff", b"GET /"])
def test_noise_ends_its_own_connection_only(server: NbdServer, noise: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(server.path))
        peer.sendall(noise)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(4096):
            pass
    assert connected(server).pread(512, 0) == Half().content[:512]


def test_stopping_ends_connections(server: NbdServer) -> None:
    handle = connected(server)
    server.stop()
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)
