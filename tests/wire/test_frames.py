"""Frames: what is encoded comes back, and nothing else is taken for a frame."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha import hashing
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType
from rha.wire.messages import Ack, Mark

U64 = st.integers(0, 2**64 - 1)
U63 = st.integers(0, 2**63 - 1)  # LSNs, numbers, offsets, times
U16 = st.integers(0, 2**16 - 1)
PAYLOADS = st.binary(max_size=256).map(frames.pad)


def header(**fields: int) -> bytes:
    return frames.encode(FrameType.RECORDS, bytes(16), **fields)


def resealed(data: bytearray) -> bytes:
    """The header with a checksum that fits again: a hostile one, not a damaged one."""
    body = bytes(data[: frames.HEADER_BYTES - 8])
    return body + hashing.xxh3(body).to_bytes(8, "little")


@given(st.sampled_from(FrameType), PAYLOADS, U63, U63, U16, U63, st.integers(0, 255), U63)
def test_header_round_trip(
    kind: FrameType, payload: bytes, lsn: int, seq: int, disk: int, offset: int, flags: int, time_ns: int
) -> None:
    data = frames.encode(kind, payload, lsn=lsn, seq=seq, disk=disk, offset=offset, flags=flags, time_ns=time_ns)
    found = frames.decode_header(data)
    assert len(data) == frames.HEADER_BYTES
    assert found[:9] == (kind, flags, disk, len(payload), len(payload), lsn, seq, offset, time_ns)
    frames.check_payload(found, payload)


@pytest.mark.parametrize("field", ["lsn", "seq", "offset", "time_ns"])
def test_numbers_whose_sums_would_not_fit(field: str) -> None:
    with pytest.raises(BadFrame, match="impossible"):
        frames.decode_header(header(**{field: 1 << 63}))


@given(st.binary(max_size=2 * frames.HEADER_BYTES))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        frames.decode_header(data)


@given(st.integers(0, frames.HEADER_BYTES * 8 - 1))
def test_every_single_flipped_bit_is_seen(bit: int) -> None:
    data = bytearray(header(lsn=4096, seq=7, time_ns=1))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFrame):
        frames.decode_header(bytes(data))


@given(st.binary(min_size=frames.HEADER_BYTES, max_size=frames.HEADER_BYTES))
def test_hostile_header_with_a_right_checksum(noise: bytes) -> None:
    """Whatever passes has only values that a reader may trust: a known type, bounded lengths."""
    data = bytearray(noise)
    data[:5] = header()[:5]
    try:
        found = frames.decode_header(resealed(data))
    except BadFrame:
        return
    assert isinstance(found.type, FrameType)
    assert found.raw_length <= found.length <= frames.MAX_PAYLOAD_BYTES
    assert found.length % 8 == 0


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (4, b"\x02", "not a frame of this protocol"),
        (5, b"\x63", "unknown type"),
        (6, b"\x03", "impossible"),
        (10, b"\x01", "impossible"),
        (12, b"\x07\x00\x00\x00", "impossible"),
        (12, b"\x08\x00\x00\x01", "impossible"),
        (16, b"\x11\x00\x00\x00", "impossible"),
    ],
    ids=[
        "version",
        "type",
        "codec",
        "padding of what is not compressed",
        "unaligned",
        "over the limit",
        "raw over length",
    ],
)
def test_hostile_field(offset: int, value: bytes, what: str) -> None:
    data = bytearray(header())
    data[offset : offset + len(value)] = value
    with pytest.raises(BadFrame, match=what):
        frames.decode_header(resealed(data))


def test_payload_limits() -> None:
    with pytest.raises(ValueError, match="not a multiple of 8"):
        frames.encode(FrameType.RECORDS, bytes(9))
    with pytest.raises(ValueError, match="not a multiple of 8, or over"):
        frames.encode(FrameType.RECORDS, bytes(frames.MAX_PAYLOAD_BYTES + 8))


@given(st.binary(min_size=1, max_size=64), st.integers(0))
def test_damaged_payload(payload: bytes, where: int) -> None:
    payload = frames.pad(payload)
    found = frames.decode_header(frames.encode(FrameType.RESYNC, payload))
    damaged = bytearray(payload)
    damaged[where % len(damaged)] ^= 0x10
    for wrong in (bytes(damaged), payload + bytes(8), payload[:-8]):
        with pytest.raises(BadFrame, match="damaged"):
            frames.check_payload(found, wrong)


@given(U63, U63, U63)
def test_control_round_trip(durable: int, seq: int, applied: int) -> None:
    message = Ack(durable_lsn=durable, seq=seq, applied_lsn=applied)
    frame = frames.control(FrameType.ACK, message, seq=3)
    found = frames.decode_header(frame[: frames.HEADER_BYTES])
    assert frames.decode_control(found, frame[frames.HEADER_BYTES :], Ack) == message


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"epoch": "x"}', b"\xff"])
def test_control_of_another_shape(raw: bytes) -> None:
    payload = frames.pad(raw)
    found = frames.decode_header(frames.encode(FrameType.MARK, payload, raw_length=len(raw)))
    with pytest.raises(BadFrame, match="MARK frame cannot be read"):
        frames.decode_control(found, payload, Mark)


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    raw = msgspec.json.encode({"durable_lsn": 1, "seq": 2, "applied_lsn": 3, "later": True})
    payload = frames.pad(raw)
    found = frames.decode_header(frames.encode(FrameType.ACK, payload, raw_length=len(raw)))
    assert frames.decode_control(found, payload, Ack).seq == 2


@given(U64)
def test_zeros(length: int) -> None:
    assert frames.zeros_length(frames.zeros_payload(length)) == length


@given(st.binary(max_size=40))
def test_pad(payload: bytes) -> None:
    assert len(frames.pad(payload)) == frames.padded(len(payload))
    assert frames.pad(payload).rstrip(b"\0") == payload.rstrip(b"\0")
