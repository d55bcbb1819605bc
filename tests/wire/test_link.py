"""Both directions at once, and neither waits for the other."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rha import pki
from rha.errors import NetworkError
from rha.wire import frames, tls
from rha.wire.frames import BadFrame, FrameType
from rha.wire.link import Link

Pair = tuple[Link, Link]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.init(folder, "Test")
    pki.issue_appliance(folder, "a", ["127.0.0.1"])
    pki.issue_master(folder, "m")
    return folder


@pytest.fixture
def pair(keys: Path) -> Iterator[Pair]:
    server = tls.server_context(keys / "ca.pem", keys / "appliance-a.pem", keys / "appliance-a.key")
    client = tls.client_context(keys / "ca.pem", keys / "master-m.pem", keys / "master-m.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = []
        accepting = threading.Thread(target=lambda: found.append(tls.accept(listener.accept()[0], server, 10)[0]))
        accepting.start()
        with closing(tls.connect(f"127.0.0.1:{listener.getsockname()[1]}", client, 10)) as near:
            accepting.join()
            with closing(found[0]) as far:
                yield Link(near), Link(far)


def for_ever(*links: Link) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for link in links:
            link.step(0.001)


def frame(seq: int, size: int) -> tuple[bytes, bytes]:
    payload = random.Random(seq).randbytes(size)
    return frames.encode(FrameType.RECORDS, payload, seq=seq), payload


def test_both_send_more_than_the_kernel_holds_before_either_reads(pair: Pair) -> None:
    """One thread serves both ends: a write that blocked would stand still for ever."""
    sizes = [random.Random(i).randrange(1 << 17) * 8 for i in range(60)]
    for link in pair:
        for seq, size in enumerate(sizes):
            link.post(*frame(seq, size))
    found: tuple[list[int], list[int]] = ([], [])
    end = time.monotonic() + 60
    while any(len(seen) < len(sizes) for seen in found) and time.monotonic() < end:
        for link, seen in zip(pair, found, strict=True):
            for header, payload in link.step(0.001):
                assert bytes(payload) == frame(header.seq, sizes[header.seq])[1]
                seen.append(header.seq)
    assert found[0] == found[1] == list(range(len(sizes)))
    assert all(link.out_bytes == 0 for link in pair)


def test_heartbeats_pass_while_the_peer_takes_no_data(pair: Pair) -> None:
    """What is not read stays at the sender, and what the peer says is heard."""
    near, far = pair
    for seq in range(40):
        near.post(*frame(seq, 1 << 20))
    heard = 0
    far.post(frames.control(FrameType.ACK, {"durable_lsn": 1}))
    end = time.monotonic() + 10
    while not heard and time.monotonic() < end:
        far.step(0.001, read=False)
        heard += len(near.step(0.001))
    assert heard == 1
    assert near.out_bytes > 20 << 20
    assert near.blocked_seconds <= near.busy_seconds


def test_wake_ends_a_wait(pair: Pair, keys: Path) -> None:
    read, write = os.pipe()
    link = Link(pair[0]._sock, read)
    threading.Timer(0.2, os.write, (write, b"\0")).start()
    begin = time.monotonic()
    assert link.step(30.0) == []
    assert time.monotonic() - begin < 20
    os.close(read)
    os.close(write)


def test_peer_that_hangs_up(pair: Pair) -> None:
    near, far = pair
    far._sock.close()
    with pytest.raises((NetworkError, OSError)):
        for_ever(near)


def test_bytes_that_are_no_frame(pair: Pair) -> None:
    near, far = pair
    far.post(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + bytes(100))
    with pytest.raises(BadFrame):
        for_ever(far, near)


def test_reason_and_end_in_one_piece(pair: Pair) -> None:
    """A refusal, and at once the end: the reason must not go down with it."""
    near, far = pair
    far.post(frames.control(FrameType.REFUSE, {"error": "no"}))
    far.flush(5)
    far._sock.close()
    time.sleep(0.1)
    assert [header.type for header, _ in near.step(5.0)] == [FrameType.REFUSE]
    with pytest.raises((NetworkError, OSError)):
        for_ever(near)


def test_last_words_are_read_after_the_end(pair: Pair) -> None:
    near, far = pair
    far.post(frames.control(FrameType.REFUSE, {"error": "no"}))
    far.flush(5)
    far._sock.close()
    found, end = [], time.monotonic() + 10
    while not found and time.monotonic() < end:
        found = near.last_words()
    assert [header.type for header, _ in found] == [FrameType.REFUSE]
