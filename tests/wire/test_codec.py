"""What was compressed comes back; what lies about its size is refused before memory is given."""

from __future__ import annotations

import random
import resource
import zlib

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rha import hashing
from rha.hashing import Buffer
from rha.wire import codec, frames
from rha.wire.codec import Compressor, Decompressor
from rha.wire.frames import BadFrame, FrameType, Header

NOISE = random.Random(3).randbytes(1 << 16)
PAYLOADS = st.one_of(
    st.binary(max_size=4096),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=64), st.integers(1, 500)),
).map(frames.pad)
CODECS = st.sampled_from(frames.CODECS)


def travelled(number: int, data: Buffer) -> tuple[Header, memoryview]:
    packed = Compressor().pack(number, data)
    head = frames.encode(
        FrameType.RECORDS,
        packed.payload,
        lsn=7,
        raw_length=packed.raw_length,
        codec=packed.codec,
        pad=packed.pad,
        raw_sum=packed.raw_sum,
    )
    header = frames.decode_header(head)
    frames.check_payload(header, packed.payload)
    return header, memoryview(packed.payload)


@given(CODECS, PAYLOADS)
def test_round_trip(number: int, data: bytes) -> None:
    header, payload = travelled(number, data)
    assert header.raw_length == len(data)
    assert len(payload) <= len(data)
    plain, raw = Decompressor().unpack(header, payload)
    assert bytes(raw) == data
    assert (plain.codec, plain.pad, plain.raw_sum, plain.length, plain.lsn) == (0, 0, 0, len(data), 7)
    frames.check_payload(plain, raw)


@pytest.mark.parametrize("number", [codec.LZ4, codec.ZSTD])
def test_noise_travels_raw(number: int) -> None:
    assert travelled(number, NOISE)[0].codec == codec.NONE


@pytest.mark.parametrize("number", [codec.LZ4, codec.ZSTD])
def test_ring_memory_is_taken_as_it_stands(number: int) -> None:
    """Views of a larger buffer, as regions are."""
    data = bytearray(b"ring memory " * 4096)
    header, payload = travelled(number, memoryview(data)[8 : 8 + (32 << 10)])
    assert bytes(Decompressor().unpack(header, payload)[1]) == data[8 : 8 + (32 << 10)]


def sealed(number: int, payload: bytes, raw_length: int, **fields: int) -> tuple[Header, memoryview]:
    """A hostile frame: its header is right in itself."""
    padded = frames.pad(payload)
    head = frames.encode(
        FrameType.RESYNC, padded, raw_length=raw_length, codec=number, pad=len(padded) - len(payload), **fields
    )
    return frames.decode_header(head), memoryview(padded)


def bomb(number: int, size: int) -> bytes:
    zeros = bytes(size)
    if number == codec.LZ4:
        return bytes(lz4.block.compress(zeros, store_size=False))
    return zstandard.ZstdCompressor(level=19).compress(zeros)


@pytest.mark.parametrize("number", [codec.LZ4, codec.ZSTD])
def test_bomb_takes_no_memory(number: int) -> None:
    """256 MiB in a few hundred KiB, said to be 4096 bytes."""
    header, payload = sealed(number, bomb(number, 256 << 20), 4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadFrame, match="cannot be decompressed"):
        Decompressor().unpack(header, payload)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"


def test_zstd_of_unknown_size_is_refused() -> None:
    small = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4096))
    with pytest.raises(BadFrame, match="cannot be decompressed"):
        Decompressor().unpack(*sealed(codec.ZSTD, small, 4096))


@pytest.mark.parametrize("raw_length", [0, 8, 4088, 4104, 8192])
@pytest.mark.parametrize("number", [codec.LZ4, codec.ZSTD])
def test_another_size_than_promised(number: int, raw_length: int) -> None:
    with pytest.raises(BadFrame):
        Decompressor().unpack(*sealed(number, bomb(number, 4096), raw_length))


@pytest.mark.parametrize("number", [codec.LZ4, codec.ZSTD])
def test_another_content_than_went_in(number: int) -> None:
    right = hashing.xxh3(bytes(4096)) & 0xFFFF_FFFF
    assert Decompressor().unpack(*sealed(number, bomb(number, 4096), 4096, raw_sum=right))
    with pytest.raises(BadFrame, match="not those that went in"):
        Decompressor().unpack(*sealed(number, bomb(number, 4096), 4096, raw_sum=right ^ 1))


@given(st.sampled_from([codec.LZ4, codec.ZSTD]), st.binary(min_size=1, max_size=300), st.integers(0, 1 << 12))
def test_garbage_is_refused(number: int, payload: bytes, raw: int) -> None:
    header, view = sealed(number, payload, raw * 8, raw_sum=zlib.crc32(payload))
    with pytest.raises(BadFrame):
        Decompressor().unpack(header, view)


@pytest.mark.parametrize(
    ("kind", "raw_length", "pad"),
    [
        (FrameType.RECORDS, frames.MAX_PAYLOAD_BYTES + 8, 0),
        (FrameType.RECORDS, 4097, 0),
        (FrameType.RECORDS, 4096, 8),
        (FrameType.HASHES, 4096, 0),
        (FrameType.MARK, 4096, 0),
    ],
    ids=["larger than any frame", "no multiple of 8", "more padding than there is", "digests", "a control frame"],
)
def test_header_that_may_not_be_compressed(kind: FrameType, raw_length: int, pad: int) -> None:
    with pytest.raises(BadFrame, match="impossible"):
        frames.decode_header(frames.encode(kind, bytes(16), raw_length=raw_length, codec=codec.ZSTD, pad=pad))
