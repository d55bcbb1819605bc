"""What every target gets: a folder of its own that nothing may write outside of, and frames made right.

A mutated frame is refused by its checksums, and nothing behind them would ever be fuzzed. So `frames_of` takes bytes as
frames and sets right what must be right; that damaged frames are refused is a target of its own (targets/frames.py).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rha import hashing
from rha.errors import RhaError
from rha.wire import frames

HEADER = struct.Struct("<IBBBBHHIIIQQQQQQ")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that change a file, and which of their arguments are paths.
EVENTS = {"os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.rename": (0, 1), "os.symlink": (1,)}
SPECIAL = ("/dev/null",)


def confined(target: str) -> Callable[[bytes], None]:
    """The function of a target, which fails when anything but RhaError comes out of it, or something is written outside
    of its folder."""
    module = importlib.import_module(f"targets.{target}")
    root = Path(tempfile.mkdtemp(prefix=f"rha-fuzz-{target}-", dir=os.environ.get("RHA_FUZZ_DIR", "/dev/shm")))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    watch = _Watch(root)

    def run(data: bytes) -> None:
        folder = root / "scenario"
        folder.mkdir()
        try:
            with watch, contextlib.suppress(RhaError):
                module.run(data, folder)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()

    return run


class _Watch:
    """Sees every path that Python code writes to while the block runs."""

    def __init__(self, root: Path) -> None:
        self._root, self._on, self._outside = str(root) + "/", False, ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._on:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._judge(event, arguments[0])
        for index in EVENTS.get(event, ()):
            self._judge(event, arguments[index])

    def _judge(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.realpath(os.fsdecode(path))
        if not (place + "/").startswith(self._root) and place not in SPECIAL:
            self._outside = f"{event} of {place}"

    def __enter__(self) -> None:
        self._on, self._outside = True, ""

    def __exit__(self, *_: object) -> None:
        self._on = False
        assert not self._outside, f"outside of the scenario's folder: {self._outside}"


def frames_of(data: bytes, lsn: Callable[[], int] = lambda: 0) -> Iterator[bytes]:
    """The bytes as whole frames: magic, version, lengths and checksums are set right, all else stays. An odd version
    makes the LSN one that counts from `lsn()`, so that a stream without holes is easily come by."""
    at = 0
    while len(data) - at >= frames.HEADER_BYTES:
        fields = list(HEADER.unpack_from(data, at))
        at += frames.HEADER_BYTES
        length = min(fields[7], len(data) - at) & ~7
        payload = data[at : at + length]
        at += length
        if fields[1] & 1:
            fields[10] = (fields[10] + lsn()) % (1 << 64)
        fields[0], fields[1], fields[7], fields[14] = frames.MAGIC, frames.VERSION, length, hashing.xxh3(payload)
        head = HEADER.pack(*fields)[:-8]
        yield head + hashing.xxh3(head).to_bytes(8, "little") + payload


def frame(type: int, payload: bytes = b"", *, relative: bool = False, **fields: int) -> bytes:
    """A frame for a corpus. `relative`: its LSN counts from where the stream is."""
    padded = frames.pad(payload)
    fields.setdefault("raw_length", len(payload))
    raw = bytearray(frames.encode(frames.FrameType(type), padded, **fields) + padded)
    raw[4] = 1 if relative else 2
    return bytes(raw)
