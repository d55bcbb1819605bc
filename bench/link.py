"""The link: what the non-blocking frames cost beside plain TLS, and what each codec does, beside a plain copy.

Everything in one process on loopback, both ends on the same processors: ratios hold, absolute figures are this
machine's.
"""

from __future__ import annotations

import random
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.tables import table
from rha import pki
from rha.wire import codec, frames, tls
from rha.wire.codec import Compressor, Decompressor
from rha.wire.frames import FrameType
from rha.wire.link import Link

FRAME_BYTES = 1 << 20
TOTAL_BYTES = 512 << 20
ROUNDS = 5

Row = dict[str, object]


def measure() -> dict[str, list[Row]]:
    """`link`: MB/s through TLS, as a stream of bytes and as frames. `codecs`: ratio and MB/s, and how often a copy of
    the same bytes would be done meanwhile. MB = 10^6 bytes; medians of rounds in turn."""
    return {"link": _link(), "codecs": [row for name, data in contents().items() for row in _codecs(name, data)]}


def contents() -> dict[str, bytes]:
    """1 MiB each of what disks hold: pages of a table, text, and what does not shrink."""
    draw = random.Random(1)
    page = b"".join(
        draw.randbytes(24)
        + b"%08d" % draw.randrange(10**6)
        + bytes(16)
        + b"customer number %04d" % draw.randrange(10**4)
        for _ in range(FRAME_BYTES // 60)
    )
    words = [b"request", b"served", b"by", b"worker", b"in", b"ms", b"GET", b"/index.html", b"200"]
    text = b" ".join(draw.choice(words) + b"%d" % draw.randrange(100) for _ in range(FRAME_BYTES // 6))
    return {"table": page[:FRAME_BYTES], "text": text[:FRAME_BYTES], "noise": draw.randbytes(FRAME_BYTES)}


def show(found: Any) -> None:
    """Two tables for a terminal."""
    for rows in found.values():
        heads = sorted({key for row in rows for key in row if key != "name"})
        table(["", *heads], [[row["name"], *(str(row.get(head) or "") for head in heads)] for row in rows])
        print()


def _link() -> list[Row]:
    plain, framed = [], []
    for _ in range(ROUNDS):
        plain.append(_through(_send_plain, _receive_plain))
        framed.append(_through(_send_frames, _receive_frames))
    ratio = median(b / a for a, b in zip(plain, framed, strict=True))
    return [
        {"name": "TLS, bytes", "MBps": round(median(plain))},
        {"name": "TLS, frames with checksums", "MBps": round(median(framed)), "of_bytes": round(ratio, 2)},
    ]


def _through(send: Callable[[ssl.SSLSocket], None], receive: Callable[[ssl.SSLSocket], None]) -> float:
    with _pair() as (near, far):
        receiver = threading.Thread(target=receive, args=(far,))
        begin = time.perf_counter()
        receiver.start()
        send(near)
        receiver.join()
        return TOTAL_BYTES / 1e6 / (time.perf_counter() - begin)


def _send_plain(sock: ssl.SSLSocket) -> None:
    data = memoryview(bytes(FRAME_BYTES))
    for _ in range(TOTAL_BYTES // FRAME_BYTES):
        sock.sendall(data)


def _receive_plain(sock: ssl.SSLSocket) -> None:
    room, left = bytearray(FRAME_BYTES), TOTAL_BYTES
    while left:
        left -= sock.recv_into(room)


def _send_frames(sock: ssl.SSLSocket) -> None:
    link, data = Link(sock), bytes(FRAME_BYTES)
    for seq in range(TOTAL_BYTES // FRAME_BYTES):
        link.post(frames.encode(FrameType.RECORDS, data, seq=seq), data)
        while link.out_bytes:
            link.step(0.05)


def _receive_frames(sock: ssl.SSLSocket) -> None:
    link, left = Link(sock), TOTAL_BYTES // FRAME_BYTES
    while left:
        left -= len(link.step(0.05))


@contextmanager
def _pair() -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Both ends of a connection as engine and appliance make it."""
    with tempfile.TemporaryDirectory(prefix="rha-bench-") as name:
        folder = Path(name)
        pki.init(folder, "Bench")
        mine, theirs = pki.issue_appliance(folder, "a", ["127.0.0.1"]), pki.issue_master(folder, "m")
        server = tls.server_context(folder / "ca.pem", mine.certificate, mine.key)
        client = tls.client_context(folder / "ca.pem", theirs.certificate, theirs.key)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            found: list[ssl.SSLSocket] = []
            accepting = threading.Thread(target=lambda: found.append(tls.accept(listener.accept()[0], server, 10)[0]))
            accepting.start()
            with closing(tls.connect(f"127.0.0.1:{listener.getsockname()[1]}", client, 10)) as near:
                accepting.join()
                with closing(found[0]) as far:
                    yield near, far


def _codecs(name: str, data: bytes) -> Iterator[Row]:
    compressor, decompressor = Compressor(), Decompressor()
    for number in (codec.LZ4, codec.ZSTD):
        packed = compressor.pack(number, data)
        head = frames.encode(
            FrameType.RECORDS,
            packed.payload,
            raw_length=packed.raw_length,
            codec=packed.codec,
            pad=packed.pad,
            raw_sum=packed.raw_sum,
        )
        header, view = frames.decode_header(head), memoryview(packed.payload)
        ways: list[Callable[[], object]] = [
            lambda: bytearray(data),
            lambda number=number: compressor.bytes_of(number, data),  # type: ignore[misc]
            lambda header=header, view=view: decompressor.unpack(header, view),  # type: ignore[misc]
        ]
        rounds = [[_seconds(way) for way in ways] for _ in range(9)]
        copy, pack, unpack = (median(times) for times in zip(*rounds, strict=True))
        yield {
            "name": f"{name}, {'lz4' if number == codec.LZ4 else 'zstd'}",
            "smaller": round(len(data) / len(packed.payload), 2),
            "compress_MBps": round(len(data) / 1e6 / pack),
            "unpack_MBps": round(len(data) / 1e6 / unpack) if header.codec else None,
            "copies_per_compress": round(pack / copy, 1),
        }


def _seconds(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(10):
        way()
    return (time.perf_counter() - begin) / 10
