"""Reads a recorded stream (docs/journal.md) without a line of rha: what the product wrote, by the documented format.

Slow and plain on purpose. Anything that is not exactly as documented is a `BadJournal`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HELLO, RECORDS, RESYNC, MARK, GAP, END, SEAL = 1, 16, 17, 18, 19, 20, 67
WRITE, DISCARD, WRITE_ZEROES, SECURE_ERASE, FLUSH = 1, 2, 3, 4, 5
ZEROS_FLAG = 1

_HEADER = struct.Struct("<IBBBBHHIIIQQQQQQ")
_RING_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<QIHBBQ")
_DISCARDED = 1 << 30


class BadJournal(Exception):
    """The journal is not what docs/journal.md says."""


class Frame(NamedTuple):
    """One frame with its payload, padding left out. `position`, `next_position`: journal positions in bytes."""

    position: int
    next_position: int
    type: int
    flags: int
    disk: int
    lsn: int
    offset: int
    time_ns: int
    payload: memoryview

    def message(self) -> dict[str, Any]:
        """The JSON of a control frame."""
        return dict(json.loads(bytes(self.payload)))


class Change(NamedTuple):
    """One captured operation: `data` for a write, None for what reads as zeros afterwards; a flush has length 0.
    LSNs: of its ring header, and of the byte after it. `flags`: RHA_FLAG_* of csrc/record.h."""

    lsn: int
    end_lsn: int
    disk: int
    offset: int
    length: int
    data: memoryview | None
    flags: int = 0


def durable(folder: Path) -> int:
    """The durable mark: the position below which a journal that is still written to can be read. Raises BadJournal."""
    raw = (folder / "durable").read_bytes()
    if len(raw) != 16:
        raise BadJournal(f"the durable mark of {folder} has {len(raw)} bytes")
    position, total = struct.unpack("<QQ", raw)
    if _sum(memoryview(raw[:8])) != total:
        raise BadJournal(f"the durable mark of {folder} is damaged")
    return int(position)


def frames(folder: Path, start: int = 0, end: int | None = None, keys: Sequence[bytes] = ()) -> Iterator[Frame]:
    """All frames from journal position `start` (which must be a frame's) to `end`, a frame's or the whole journal's;
    every checksum is checked. `keys`: contents of key files.

    Raises BadJournal.
    """
    expected = None
    for path in sorted(folder.glob("*.journal")):
        first = int(path.stem, 16)
        if expected is not None and first != expected:
            raise BadJournal(f"{path} begins at {first}, the one before ends at {expected}")
        expected = first + path.stat().st_size
        if expected > start:
            limit = expected if end is None else min(end, expected)
            yield from _segment(path, first, max(0, start - first), limit, keys)


def sound(folder: Path, start: int) -> Iterator[Frame]:
    """The frames from a position on, as far as they are whole: behind the durable mark a crash may have torn one.

    Raises BadJournal when that is below the mark.
    """
    end = start
    try:
        for frame in frames(folder, start):
            yield frame
            end = frame.next_position
    except BadJournal:
        if end < durable(folder):
            raise


def segment(path: Path, first: int) -> Iterator[Frame]:
    """All frames of one file in the clear that begins at a position. Raises BadJournal."""
    return _segment(path, first, 0, first + path.stat().st_size, ())


def _segment(path: Path, first: int, offset: int, end: int, keys: Sequence[bytes]) -> Iterator[Frame]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        whole = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    head = _frame(whole, first)
    cipher = _cipher(head.message(), path.name, keys) if head.type == SEAL else None
    if cipher:
        offset = max(offset, head.next_position - first)
    while first + offset < end:
        if cipher:
            frame = _sealed(cipher, whole, offset, first)
        else:
            frame = _frame(whole[offset:], first + offset)
        yield frame
        offset = frame.next_position - first


def _cipher(head: dict[str, Any], name: str, keys: Sequence[bytes]) -> AESGCM:
    for key in keys:
        if _hkdf(key, bytes(32), b"rha at rest 1 id", 8).hex() == head["key"]:
            return AESGCM(_hkdf(key, bytes.fromhex(head["salt"]), b"rha at rest 1 file " + name.encode(), 32))
    raise BadJournal(f"{name} is encrypted with key {head['key']}, which is not given")


def _hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256, for at most 32 bytes."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def _sealed(cipher: AESGCM, whole: memoryview, offset: int, first: int) -> Frame:
    """The frame of an encrypted file at a file offset."""
    try:
        nonce, about = bytes(whole[offset : offset + 12]), struct.pack("<Q", offset)
        following = nonce[:8] + struct.pack("<I", struct.unpack("<I", nonce[8:])[0] + 1)
        header = cipher.decrypt(nonce, whole[offset + 12 : offset + 100], about)
        end = offset + 100 + _HEADER.unpack(header)[7] + 16
        payload = cipher.decrypt(following, whole[offset + 100 : end], about)
    except (InvalidTag, ValueError, struct.error) as error:
        raise BadJournal(f"it does not decrypt at position {first + offset}") from error
    frame = _frame(memoryview(header + payload), first + offset)
    return frame._replace(next_position=first + end)


def _frame(data: memoryview, position: int) -> Frame:
    if len(data) < _HEADER.size:
        raise BadJournal(f"a header cut off at position {position}")
    (magic, version, kind, codec, flags, disk, _, length, raw, _, lsn, _, offset, time_ns, payload_sum, head_sum) = (
        _HEADER.unpack_from(data)
    )
    payload = data[_HEADER.size : _HEADER.size + length]
    if magic != 0x31414852 or version != 1 or codec or len(payload) != length or raw > length:
        raise BadJournal(f"no frame of version 1 at position {position}")
    if _sum(data[: _HEADER.size - 8]) != head_sum or _sum(payload) != payload_sum:
        raise BadJournal(f"a checksum does not fit at position {position}")
    end = position + _HEADER.size + length
    return Frame(position, end, kind, flags, disk, lsn, offset, time_ns, payload[:raw])


def _sum(data: memoryview) -> int:
    return xxhash.xxh3_64_intdigest(data)


def changes(frame: Frame) -> Iterator[Change]:
    """The operations of a RECORDS frame, in order (csrc/record.h). Raises BadJournal."""
    at, run = 0, frame.payload
    while at < len(run):
        word, _ = _RING_HEADER.unpack_from(run, at)
        length = word & ~_DISCARDED
        following = at + _RING_HEADER.size + length + 7 & ~7
        if following > len(run):
            raise BadJournal(f"a record reaches beyond its frame at LSN {frame.lsn + at}")
        if not word & _DISCARDED:
            yield _change(run, at, length, frame.lsn, following)
        at = following


def _change(run: memoryview, at: int, length: int, lsn: int, following: int) -> Change:
    begin = at + _RING_HEADER.size
    sector, count, disk, op, flags, _ = _RECORD.unpack_from(run, begin)
    data = run[begin + _RECORD.size : begin + length]
    if not WRITE <= op <= FLUSH or len(data) != (count if op == WRITE else 0):
        raise BadJournal(f"operation {op} of {count} bytes with {len(data)} bytes of data at LSN {lsn + at}")
    count = 0 if op == FLUSH else count
    return Change(lsn + at, lsn + following, disk, sector * 512, count, data if op == WRITE else None, flags)


def resync_range(frame: Frame) -> tuple[int, int, memoryview | None]:
    """What a RESYNC frame puts on its disk: (offset, length, data or None for zeros)."""
    if frame.flags & ZEROS_FLAG:
        return frame.offset, struct.unpack_from("<Q", frame.payload)[0], None
    return frame.offset, len(frame.payload), frame.payload
