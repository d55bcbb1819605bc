"""Reads PNG files as RFC 2083 has them: 8 bits of RGB, RGBA or grey."""

import struct
import zlib

_CHANNELS = {0: 1, 2: 3, 6: 4}


def read_png(content: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height, and the filtered rows; every checksum is looked at."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, dict[bytes, bytes]()
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + length
    assert kind == b"IEND"
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert depth == 8
    row = 1 + width * _CHANNELS[colour]
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == row * height
    return width, height, [pixels[at : at + row] for at in range(0, len(pixels), row)]
