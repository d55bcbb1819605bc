"""Makes the seeds of the corpus anew: `python tests/fuzz/seeds.py`. Small sound inputs of every kind, the same each
time; what fuzzing adds beside them stays."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import frame  # noqa: E402
from targets import files, messages, undo  # noqa: E402

from rha.appliance.points import Bookmark  # noqa: E402
from rha.appliance.spans import Change  # noqa: E402
from rha.engine import spool  # noqa: E402
from rha.engine.spool import Chunk  # noqa: E402
from rha.report import DiskReport, LinkReport, Point, Report, SpoolReport, Sync, VmReport, Window  # noqa: E402
from rha.sync import medium  # noqa: E402
from rha.wire import frames  # noqa: E402
from rha.wire.codec import LZ4, ZSTD, Compressor  # noqa: E402
from rha.wire.frames import FrameType  # noqa: E402
from rha.wire.messages import Alone, AloneDisk, DiskHello, End, Gap, Heartbeat, Hello, Mark  # noqa: E402

ROOT = HERE.parent.parent
SAMPLES = ROOT / "tests/samples"
SCENARIO = b"""name = "web"
[[disk]]
name = "d0"
device = "/dev/vda"
[appliance]
address = "192.0.2.1:7420"
ca = "/a"
certificate = "/b"
key = "/c"
"""
PLAIN = {
    "name": "web",
    "disk": [{"name": "d0", "device": "/dev/vda"}],
    "appliance": {"address": "192.0.2.1:7420", "ca": "/a", "certificate": "/b", "key": "/c"},
}
HELLO = Hello(
    protocol=1,
    version="0",
    scenario={**PLAIN, "name": "scenario"},
    host="h",
    generation="5" * 32,
    first_lsn=4096,
    disks=[DiskHello(name="d0", bytes=1 << 20)],
)
REPORT = Report(
    role="engine",
    scenario="web",
    mode="dr",
    time=1.0,
    health="ok",
    state="write-order",
    why="",
    disks=[DiskReport(name="d0", device="/dev/vda", bytes=512, state="write-order", why="", since=1.0)],
    consistent=Point(lsn=1, time=1.0),
)


def record(sector: int, data: bytes, op: int = 1, time_ns: int = 1) -> bytes:
    """One ring record: a write of `data`, or an operation on as many bytes without any."""
    payload = data if op == 1 else b""
    return struct.pack("<IIQIHBBQ", 24 + len(payload), 0, sector, len(data), 0, op, 0, time_ns) + payload


def control(kind: FrameType, message: object, **fields: int) -> bytes:
    return frame(kind, msgspec.json.encode(message), relative=True, **fields)


def stream() -> bytes:
    """A first sync and some records."""
    run = record(0, b"a" * 512) + record(8, bytes(4096), op=2) + record(0, b"", op=5)
    return b"".join(
        [
            control(FrameType.HELLO, HELLO),
            control(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"), lsn=8),
            frame(FrameType.RECORDS, run, relative=True, time_ns=5),
            frame(FrameType.RESYNC, b"b" * 4096, relative=True, offset=4096),
            frame(FrameType.RESYNC, frames.zeros_payload(8192), relative=True, offset=8192, flags=frames.FLAG_ZEROS),
            frame(FrameType.FREE, struct.pack("<QQ", 65536, 65536), relative=True),
            control(FrameType.HEARTBEAT, Heartbeat(time=1.0, captured_lsn=1, report=REPORT)),
            control(FrameType.END, End(epoch=1, disks=[0], lsn=4104)),
            frame(FrameType.RECORDS, record(3, b"c" * 1024), relative=True, time_ns=6),
            control(FrameType.GAP, Gap(disk=0, reason="x", count=1)),
        ]
    )


def compressed() -> bytes:
    raw, found = b"abcd" * 256, b""
    for codec in (LZ4, ZSTD):
        packed = Compressor().pack(codec, raw)
        fields = {"codec": packed.codec, "pad": packed.pad, "raw_sum": packed.raw_sum, "raw_length": packed.raw_length}
        found += frame(FrameType.RECORDS, bytes(packed.payload), **fields)
    return found


def of_frames() -> Iterator[bytes]:
    for mode in (0, 1, 2, 3):
        yield bytes([mode, 16]) + stream()
        yield bytes([mode, 255]) + compressed()


def of_messages() -> Iterator[bytes]:
    for number, kind in enumerate(messages.KINDS):
        known = {Hello: HELLO, Heartbeat: Heartbeat(time=1.0, captured_lsn=1, report=REPORT)}
        fields = {
            field.name: {int: 1, str: "x", bool: True, float: 1.0, list[int]: [0]}.get(field.type, [])
            for field in msgspec.structs.fields(kind)
            if field.required
        }
        if "method" in fields:
            fields["method"] = "full"
        yield bytes([number]) + msgspec.json.encode(known.get(kind, fields))
    disks = [
        AloneDisk(name="d0", state="ordered"),
        AloneDisk(name="d1", state="marked", dirty_bytes=65536, since=2.0, why="the ring was full"),
        AloneDisk(name="d2", state="unknown", why="the host was restarted"),
    ]
    said = Alone(acknowledged_lsn=4096, lsn=8192, records=1, payload_bytes=4064, first=1.0, last=2.0, disks=disks[:2])
    for alone in (said, msgspec.structs.replace(said, disks=disks, records=None, payload_bytes=None)):
        yield bytes([0]) + msgspec.json.encode(msgspec.structs.replace(HELLO, alone=alone))
    yield bytes([5]) + b'{"id": 1, "verb": "add", "arguments": {"left": 1}}'
    yield bytes([6]) + b'{"id": 1, "what": "no", "code": 9}'


def of_scenario() -> Iterator[bytes]:
    yield b"\0" + SCENARIO
    for path in sorted(SAMPLES.rglob("*.toml")):
        yield b"\0" + path.read_bytes()
    yield b"\1" + (ROOT / "docs/appliance.toml").read_bytes()
    yield b"\2" + (ROOT / "docs/observer.toml").read_bytes()


def of_journal() -> Iterator[bytes]:
    body = stream()
    for mode, second in ((0, 0), (2, 400), (4, 0), (6, 472)):
        yield bytes([mode]) + second.to_bytes(2, "little") + len(body).to_bytes(2, "little") + body


def of_sealed() -> Iterator[bytes]:
    for mode in (0, 2, 4, 8, 20):
        yield bytes([mode]) + (700).to_bytes(2, "little") + (100).to_bytes(2, "little") + stream()


def of_undo() -> Iterator[bytes]:
    table = struct.pack("<QIHHQIHH", 0, 4096, 0, 1, 8192, 4096, 0, 2)
    pair = frame(FrameType.UNDO_TABLE, table) + frame(FrameType.UNDO_DATA, b"o" * 4096)
    yield b"\0" + pair
    yield b"\1" + frame(FrameType.INTERVAL, msgspec.json.encode(undo.HEAD)) + pair + pair[:-8]


def of_files() -> Iterator[bytes]:
    bookmark = Bookmark(name="before", lsn=5, time=1.0, created=1.0)
    contents = {
        files.read_checkpoint: [b'{"position": 1, "lsn": 2, "time_ns": 3}'],
        files.read_stream: [msgspec.json.encode(undo.STATE)],
        files.read_scenario: [msgspec.json.encode(PLAIN)],
        files.read_bookmarks: [
            msgspec.json.encode([bookmark]) + b"\n" + words
            for words in (b"before", b"2026-11-24T03:00:00Z", b"10min", b"123", b"now", b"../x")
        ],
        files.read_changes: [msgspec.json.encode([Change(position=1, lsn=1, time=1.0, why="x")])],
        files.read_guard: [b'{"point": {"lsn": 1, "time": 1.0}}'],
        files.read_unsent: [b'{"position": 0, "ranges": {"0": [[512, 1024]]}}'],
        files.read_switch: [b"{}"],
    }
    for number, reader in enumerate(files.READERS):
        for content in contents[reader]:
            yield bytes([number]) + content


def of_intake() -> Iterator[bytes]:
    yield stream()
    grown = msgspec.structs.replace(HELLO, disks=[DiskHello(name="d0", bytes=2 << 20)])
    yield stream() + control(FrameType.HELLO, grown) + stream()[:0]
    yield stream() + stream()


def of_medium() -> Iterator[bytes]:
    manifest = medium.Manifest(
        id="1" * 32,
        scenario="web",
        host="h",
        begun=1.0,
        key="file",
        salt="00" * 16,
        check="00" * 39,
        disks=[medium.MediumDisk(name="d0", bytes=32 << 20)],
        parts=[medium.Part(disk=0, offset=0, bytes=4096, stored_bytes=64, digest="00" * 32)],
    )
    note = msgspec.json.encode(manifest.parts[0])
    for mode in (0, 1, 3):
        yield bytes([mode]) + msgspec.json.encode(manifest) + b"\n" + note + b"\n" + bytes(64)


def of_spool() -> Iterator[bytes]:
    data = b"x" * 4096
    entry = spool._encode(Chunk(0, 4096, 1, 0), bytes.fromhex("5" * 32))
    for mode in (0, 1):
        yield bytes([mode]) + (4096).to_bytes(8, "little") + b"\1" + entry + data


def of_layout() -> Iterator[bytes]:
    mbr = bytearray(512)
    mbr[446:462] = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 1, 2)
    mbr[510:] = b"\x55\xaa"
    yield b"\0" + bytes(mbr) + bytes(2048)
    mbr[450] = 0xEE
    entry = struct.pack("<16s16sQQQ72s", bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b"), b"g" * 16, 4, 5, 0, b"")
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 65536, 92, 0, 0, 1, 7, 3, 6, b"d" * 16, 2, 1, 128, 0)
    for mode in (0, 1):
        yield bytes([mode]) + bytes(mbr) + head.ljust(512, b"\0") + entry.ljust(512, b"\0") + bytes(2048)
    qcow2 = struct.pack(">4sIQIIQIIQQIIQQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 128, 0, 0, 0, 0, 0)
    yield b"\2" + qcow2.ljust(136, b"\0")


def of_questions() -> Iterator[bytes]:
    yield b'\0{"verb": "do", "scenario": "web", "count": 2}'
    yield b'\1{"protocol": 1, "scenario": "web", "checks": [{"kind": "tcp", "address": "192.0.2.1:22"}]}'
    yield b'\2{"checks": [{"kind": "tcp", "address": "x", "answered": true, "why": "", "time": 1.0}]}'


def of_shown() -> Iterator[bytes]:
    point, sync = (
        Point(lsn=1, time=1.0),
        Sync(
            method="full",
            done_bytes=1,
            total_bytes=2,
            sent_bytes=1,
            rate_bytes=1.0,
            remaining_seconds=1.0,
        ),
    )
    disk = msgspec.structs.replace(REPORT.disks[0], sync=sync, losses={"x": 1}, left_order={"y": 2}, dirty_bytes=5)
    full = msgspec.structs.replace(
        REPORT,
        disks=[disk],
        lag_bytes=1,
        lag_seconds=1.0,
        ring_bytes=4096,
        link=LinkReport(limit_bytes=0, limit="", compression="none", sent_bytes=1, raw_bytes=2),
        spool=SpoolReport(path="/s", bytes=1, used_bytes=1, why="x"),
        vm=VmReport(domain="d", state="ready", rpo_seconds=1.0),
        window=Window(oldest=point, bytes=1, most_bytes=2, wanted_seconds=1.0),
        alarms=["a"],
    )
    for mode in (0, 1):
        yield bytes([mode]) + msgspec.json.encode(full)
    for known in (b"1e300", b"-1e300", b"1e308"):
        yield b"\1" + msgspec.json.encode(full).replace(b'"lsn":1,"time":1.0', b'"lsn":1,"time":' + known)
    yield b"\1" + msgspec.json.encode(msgspec.structs.replace(full, why="\x1b[2J\x9b0m", alarms=["\x07\u202e"]))


def main() -> None:
    for target in sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py")):
        place = HERE / "corpus" / target
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("seed-*"):
            old.unlink()
        for number, data in enumerate(globals()[f"of_{target}"]()):
            (place / f"seed-{number:02d}").write_bytes(data)


if __name__ == "__main__":
    main()
