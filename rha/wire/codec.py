"""Compression of single frames. Each frame stands for itself: a stream that goes on by LSN needs no history.

A frame is compressed for the wire only; the appliance's journal holds raw payloads (docs/journal.md). Sums: the
header's `payload_sum` covers the bytes as sent, so nothing damaged reaches a decompressor; `raw_sum` covers what must
come out of it.
"""

from __future__ import annotations

from typing import NamedTuple

import lz4.block
import zstandard

from rha import hashing
from rha.hashing import Buffer
from rha.wire import frames
from rha.wire.frames import BadFrame, Header

NONE, LZ4, ZSTD = frames.CODECS
NAMES = {"none": NONE, "lz4": LZ4, "zstd": ZSTD}
ZSTD_LEVEL = 1  # higher levels are slower than the links they could help: bench/link.py
_WINDOW_BYTES = frames.MAX_PAYLOAD_BYTES  # of history that a decompressor may be made to keep


class Packed(NamedTuple):
    """A payload as it travels, padded to 8, and what the header must say about it."""

    payload: Buffer
    raw_length: int
    codec: int = NONE
    pad: int = 0
    raw_sum: int = 0


class Compressor:
    """One thread's own: a Zstandard context must not be shared."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)

    def bytes_of(self, codec: int, data: Buffer) -> bytes:
        """The compressed form, not padded. Releases Python's lock."""
        if codec == LZ4:
            return bytes(lz4.block.compress(data, store_size=False))
        return self._zstd.compress(data)

    def pack(self, codec: int, data: Buffer) -> Packed:
        """The payload by this codec, or raw where that is no longer."""
        raw = len(data)
        if codec == NONE or raw % 8 or raw == 0:
            return Packed(data, raw)
        small = self.bytes_of(codec, data)
        if frames.padded(len(small)) >= raw:
            return Packed(data, raw)
        return Packed(frames.pad(small), raw, codec, -len(small) % 8, hashing.xxh3(data) & 0xFFFF_FFFF)


class Decompressor:
    """One thread's own."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)

    def unpack(self, header: Header, payload: memoryview) -> tuple[Header, memoryview]:
        """The frame as it would be without a codec. Never makes more than `header.raw_length` bytes, which the header's
        check has bounded.

        Raises BadFrame when the payload is not exactly what the header promises.
        """
        if header.codec == NONE:
            return header, payload
        raw = self._raw(header, payload[: header.length - header.pad])
        total = hashing.xxh3(raw)
        if len(raw) != header.raw_length or total & 0xFFFF_FFFF != header.raw_sum:
            raise _bad(header, f"{len(raw)} bytes came out, or not those that went in")
        plain = header._replace(length=len(raw), payload_sum=total, codec=NONE, pad=0, raw_sum=0)
        return plain, memoryview(raw)

    def _raw(self, header: Header, small: memoryview) -> bytes:
        try:
            if header.codec == LZ4:
                return bytes(lz4.block.decompress(small, uncompressed_size=header.raw_length))
            # The frame's own word for its size decides what is allocated, whatever `max_output_size` says.
            if zstandard.frame_content_size(small) != header.raw_length:
                raise _bad(header, "it says another size than its frame")
            return self._zstd.decompress(small, allow_extra_data=False)
        except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
            raise _bad(header, str(error)) from error


def _bad(header: Header, cause: str) -> BadFrame:
    return BadFrame("frame payload cannot be decompressed", cause=f"{header.type.name} frame {header.seq}: {cause}")
