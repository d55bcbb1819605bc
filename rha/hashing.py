"""Checksums in C, the GIL released. XXH3-64 (xxhash.com, specification 0.2.0) guards against damage, not attack:
TLS does that on the wire."""

from __future__ import annotations

from typing import TypeAlias

from rha._native import ffi, lib

Buffer: TypeAlias = bytes | bytearray | memoryview


def xxh3(data: Buffer) -> int:
    """XXH3-64 of a contiguous buffer, seed 0."""
    view = ffi.from_buffer(data)
    return int(lib.rha_xxh3(view, len(view)))


def is_zero(data: Buffer) -> bool:
    """True when every byte is zero."""
    view = ffi.from_buffer(data)
    return bool(lib.rha_is_zero(view, len(view)))
