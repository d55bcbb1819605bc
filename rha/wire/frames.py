"""The frame: unit of the wire and of the journal.

72 bytes of header, little endian, then `length` bytes of payload (a multiple of 8, padded with zeros):

    offset size field
         0    4 magic         "RHA1"
         4    1 version       1
         5    1 type          FrameType
         6    1 codec         of RECORDS and RESYNC on the wire: 0 none, 1 LZ4 block, 2 Zstandard frame; else 0
         7    1 flags         FLAG_*
         8    2 disk          index of the disk in its scenario, else 0
        10    2 pad           with a codec: zero bytes at the payload's end that are not the codec's, else 0
        12    4 length        bytes of payload that follow
        16    4 raw_length    bytes that matter in the payload, before padding and compression
        20    4 raw_sum       with a codec: lower half of the XXH3-64 of the raw payload, else 0
        24    8 lsn           stream position at which the frame stands; RECORDS cover [lsn, lsn + raw_length)
        32    8 seq           number of the frame in its session, from 1
        40    8 offset        RESYNC, HASHES, DIFFERS: byte offset on the disk, else 0
        48    8 time_ns       RECORDS: the sender's CLOCK_REALTIME when the last record was submitted, else 0
        56    8 payload_sum   XXH3-64 of the payload as sent
        64    8 header_sum    XXH3-64 of bytes 0-63

A payload of RECORDS is ring memory as it stands (csrc/record.h). Control payloads are JSON.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec

from rha import hashing
from rha.decoding import from_json
from rha.errors import StorageError

T = TypeVar("T")

MAGIC = 0x31414852  # "RHA1"
VERSION = 1
HEADER_BYTES = 72
MAX_PAYLOAD_BYTES = 16 << 20
LIMIT = 1 << 63  # of LSN, number, offset and time: sums of two such fit into 64 bits

CODECS = (0, 1, 2)  # none, LZ4, Zstandard: rha/wire/codec.py

FLAG_ZEROS = 1  # RESYNC: the range is all zeros; the payload is one u64, its length in bytes
FLAG_SECTORS = 2  # HASHES, DIFFERS: of sectors of 512 bytes instead of blocks of 64 KiB
FLAG_PAGES = 4  # the same: of pages of 4 KiB

_HEADER = struct.Struct("<IBBBBHHIIIQQQQQQ")
_SUMMED_BYTES = HEADER_BYTES - 8
_ZEROS_LENGTH = struct.Struct("<Q")


class FrameType(IntEnum):
    HELLO = 1  # engine: who I am, my scenario, my stream
    WELCOME = 2  # appliance: where to go on, which disks need what
    REFUSE = 3  # either side: error, cause, hint; then it closes
    HEARTBEAT = 4  # engine: alive, with its report
    ACK = 5  # appliance: durable up to here
    OFFER = 6  # receiver, first: disks of a repaired master that may be overwritten
    TAKEN = 7  # appliance: the offer is taken
    RECORDS = 16  # captured operations
    RESYNC = 17  # a range read from the disk
    MARK = 18  # a resync begins: epoch mark
    GAP = 19  # a disk left write order here
    END = 20  # a resync ended: in write order from here
    REWIND = 21  # journal only, by the appliance: the images are taken back to a point here
    RETURN = 22  # journal only, by the appliance: the images are now what a substitute had on its disks
    HASHES = 32  # engine: digests of blocks, to be compared with the image
    DIFFERS = 33  # appliance: which of these blocks differ
    FREE = 34  # engine: ranges that a sync leaves out, as their file system holds them for free
    WANT = 35  # appliance to receiver: digests of these ranges of your disk; answered by HASHES
    ORDER = 48  # appliance: do something, and answer (rha/wire/orders.py)
    ANSWER = 49  # engine: what became of the order of the same id
    INTERVAL = 64  # undo file only: what the images were when it began
    UNDO_TABLE = 65  # undo file only: ranges whose old content follows
    UNDO_DATA = 66  # undo file only: that content
    SEAL = 67  # first in an encrypted file: by which key (rha/journal/sealing.py)


# What may be compressed. Its raw length is a multiple of 8 anyway, so no padding hides inside.
COMPRESSIBLE = frozenset({FrameType.RECORDS, FrameType.RESYNC})
# What counts against the credit that the appliance grants (rha/wire/credit.py).
CREDITED = frozenset({FrameType.RECORDS, FrameType.RESYNC, FrameType.HASHES, FrameType.FREE})
JOURNALED = frozenset(
    {FrameType.RECORDS, FrameType.RESYNC, FrameType.MARK, FrameType.GAP, FrameType.END, FrameType.HELLO}
)


class BadFrame(StorageError):
    """The bytes are not a frame of ours: damaged, hostile, or of another version."""


class Header(NamedTuple):
    """A checked frame header. `lsn` in stream bytes, `offset` in disk bytes, `time_ns` since the epoch."""

    type: FrameType
    flags: int
    disk: int
    length: int
    raw_length: int
    lsn: int
    seq: int
    offset: int
    time_ns: int
    payload_sum: int
    codec: int = 0
    pad: int = 0
    raw_sum: int = 0


def padded(length: int) -> int:
    """`length` rounded up to the next multiple of 8."""
    return (length + 7) & ~7


def encode(
    type: FrameType,
    payload: bytes | bytearray | memoryview,
    *,
    lsn: int = 0,
    seq: int = 0,
    disk: int = 0,
    offset: int = 0,
    flags: int = 0,
    time_ns: int = 0,
    raw_length: int | None = None,
    payload_sum: int | None = None,
    codec: int = 0,
    pad: int = 0,
    raw_sum: int = 0,
) -> bytes:
    """The 72 header bytes for a payload that is already padded to 8.

    Raises ValueError when the payload is not padded or too large.
    """
    length = len(payload)
    if length % 8 or length > MAX_PAYLOAD_BYTES:
        raise ValueError(f"payload of {length} bytes: not a multiple of 8, or over {MAX_PAYLOAD_BYTES}")
    if payload_sum is None:
        payload_sum = hashing.xxh3(payload)
    raw = length if raw_length is None else raw_length
    head = _HEADER.pack(
        MAGIC, VERSION, type, codec, flags, disk, pad, length, raw, raw_sum, lsn, seq, offset, time_ns, payload_sum, 0
    )
    return head[:_SUMMED_BYTES] + hashing.xxh3(head[:_SUMMED_BYTES]).to_bytes(8, "little")


def decode_header(data: bytes | memoryview) -> Header:
    """Checks and decodes 72 header bytes.

    Raises BadFrame on wrong magic, version, checksum, type or length.
    """
    if len(data) != HEADER_BYTES:
        raise BadFrame("frame header cut off", cause=f"{len(data)} of {HEADER_BYTES} bytes")
    (
        magic,
        version,
        type_,
        codec,
        flags,
        disk,
        pad,
        length,
        raw,
        raw_sum,
        lsn,
        seq,
        offset,
        time_ns,
        payload_sum,
        total,
    ) = _HEADER.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise BadFrame("not a frame of this protocol", cause=f"magic {magic:#x}, version {version}")
    if hashing.xxh3(data[:_SUMMED_BYTES]) != total:
        raise BadFrame("frame header damaged", cause="its checksum does not fit")
    try:
        kind = FrameType(type_)
    except ValueError:
        raise BadFrame("frame of an unknown type", cause=f"type {type_}") from None
    header = Header(kind, flags, disk, length, raw, lsn, seq, offset, time_ns, payload_sum, codec, pad, raw_sum)
    if not _is_possible(header):
        raise BadFrame(
            "frame header impossible", cause=f"codec {codec}, length {length}, raw length {raw}, pad {pad}, LSN {lsn}"
        )
    return header


def _is_possible(header: Header) -> bool:
    if header.length % 8 or max(header.length, header.raw_length) > MAX_PAYLOAD_BYTES:
        return False
    if max(header.lsn, header.seq, header.offset, header.time_ns) >= LIMIT:
        return False
    if header.codec == 0:
        return header.raw_length <= header.length and header.pad == 0
    compressible = header.codec in CODECS and header.type in COMPRESSIBLE and header.raw_length % 8 == 0
    return compressible and header.pad < min(8, header.length)


def check_payload(header: Header, payload: bytes | bytearray | memoryview) -> None:
    """Raises BadFrame when the payload is not what the header promised."""
    if len(payload) != header.length or hashing.xxh3(payload) != header.payload_sum:
        raise BadFrame("frame payload damaged", cause=f"{header.type.name} frame {header.seq}: checksum does not fit")


def pad(payload: bytes) -> bytes:
    """The payload with zeros to the next multiple of 8."""
    return payload + bytes(-len(payload) % 8)


def control(type: FrameType, message: object, **fields: int) -> bytes:
    """A whole frame with a JSON payload."""
    raw = msgspec.json.encode(message)
    payload = pad(raw)
    return encode(type, payload, raw_length=len(raw), **fields) + payload


def decode_control(header: Header, payload: bytes | memoryview, kind: type[T]) -> T:
    """The message of a control frame, checked against its type.

    Raises BadFrame when the payload is not such a message.
    """
    try:
        return from_json(bytes(payload[: header.raw_length]), kind)
    except msgspec.MsgspecError as error:
        raise BadFrame(f"{header.type.name} frame cannot be read", cause=str(error)) from error


def zeros_payload(length: int) -> bytes:
    """Payload of a RESYNC frame with FLAG_ZEROS."""
    return _ZEROS_LENGTH.pack(length)


def zeros_length(payload: bytes | memoryview) -> int:
    """Length in bytes of the all-zero range that a RESYNC frame with FLAG_ZEROS stands for.

    Raises BadFrame when the payload holds none.
    """
    if len(payload) < _ZEROS_LENGTH.size:
        raise BadFrame("zeros without a length", cause=f"{len(payload)} bytes of payload")
    return int(_ZEROS_LENGTH.unpack_from(payload)[0])
