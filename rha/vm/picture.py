"""A screen's picture as PNG: older hypervisors give PPM, which no browser shows.

PNG: RFC 2083, 8 bits of red, green and blue, no filter. PPM: https://netpbm.sourceforge.net/doc/ppm.html, kind P6.
"""

from __future__ import annotations

import re
import struct
import zlib

from rha.errors import VmError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PPM = re.compile(rb"P6(?:\s+|\s*#[^\n]*\n)+(\d+)\s+(\d+)\s+255\s")


def as_png(content: bytes) -> bytes:
    """The picture as PNG. Raises VmError when it is neither PNG nor PPM."""
    if content.startswith(SIGNATURE):
        return content
    head = _PPM.match(content)
    if head is None:
        raise VmError("the screen's picture cannot be read", cause=f"it begins with {content[:16]!r}")
    width, height = int(head[1]), int(head[2])
    pixels = content[head.end() :]
    if len(pixels) != 3 * width * height:
        raise VmError("the screen's picture is cut off", cause=f"{len(pixels)} bytes for {width}x{height} pixels")
    return png(width, height, pixels)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG file of rows of RGB bytes."""
    row = 3 * width
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, row * height, row))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
