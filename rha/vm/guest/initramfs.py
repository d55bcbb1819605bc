"""Which kernel modules an initramfs holds. Pure: a stream in, names out; every length is a stranger's and is bounded.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel: cpio archives ("newc"), plain or
compressed, one behind the other, zeros between them. The kernel's LZ4 is the legacy frame of `lz4 -l`.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lz4.block
import lz4.frame
import zstandard

from rha.vm.guest.tree import Unknown

MAX_UNPACKED_BYTES = 4 << 30
MAX_NAME_BYTES = 4096
PIECE_BYTES = 1 << 18
_NEWC = (b"070701", b"070702")
_HEADER_BYTES = 110
_END = b"TRAILER!!!"
_LZ4_LEGACY, _LZ4_BLOCK_BYTES = b"\x02\x21\x4c\x18", 8 << 20
_MODULE = re.compile(rb"/lib/modules/[^/]+/(?:.*/)?([^/]+?)\.ko(?:\.(?:gz|xz|zst|bz2))?$")


class Decompressor(Protocol):
    """As zlib, bz2 and lzma have it."""

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class Source:
    """Bytes that can be put back. `read` gives fewer than it was asked for only at the end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        """`more`: the next piece, of any length; empty at the end."""
        self._more, self._left = more, b""

    def read(self, count: int) -> bytes:
        pieces, have = [self._left], len(self._left)
        while have < count and (piece := self._more()):
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        self._left = data[count:]
        return data[:count]

    def back(self, data: bytes) -> None:
        self._left = data + self._left

    def skip(self, count: int) -> None:
        while count and (piece := self.read(min(count, PIECE_BYTES))):
            count -= len(piece)

    def skip_zeros(self) -> None:
        while piece := self.read(512):
            rest = piece.lstrip(b"\0")
            if rest:
                self.back(rest)
                return


def modules(more: Callable[[], bytes]) -> set[str]:
    """The modules' names, `-` written as `_`. `more`: the file, piece by piece.

    Raises Unknown when the file is no initramfs, or is damaged.
    """
    names: set[str] = set()
    source = Source(more)
    source.skip_zeros()
    while head := source.read(6):
        source.back(head)
        if head in _NEWC:
            names |= _in_archive(source)
        else:
            inner = Source(_bounded(_unpack(source, head)))
            while inner_head := inner.read(6):
                inner.back(inner_head)
                if inner_head not in _NEWC:
                    raise Unknown(f"no cpio archive inside, but {inner_head.hex()}")
                names |= _in_archive(inner)
                inner.skip_zeros()
        source.skip_zeros()
    return names


def module_name(path: str) -> str:
    """`kernel/drivers/block/virtio-blk.ko.xz` is virtio_blk."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _in_archive(source: Source) -> set[str]:
    """Up to the archive's end, which is read over. Raises Unknown."""
    names = set[str]()
    while True:
        header = source.read(_HEADER_BYTES)
        try:
            if len(header) < _HEADER_BYTES or header[:6] not in _NEWC:
                raise ValueError(header[:6])
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError as error:
            raise Unknown("the cpio archive is damaged") from error
        if not 0 < name_size <= MAX_NAME_BYTES:
            raise Unknown(f"a name of {name_size} bytes")
        name = source.read(name_size + -(_HEADER_BYTES + name_size) % 4)[: name_size - 1]
        if name == _END:
            return names
        if found := _MODULE.search(b"/" + name):
            names.add(found[1].decode("ascii", "replace").replace("-", "_"))
        source.skip(size + -size % 4)


def _unpack(source: Source, head: bytes) -> Iterator[bytes]:
    """The unpacked pieces of one compressed part; what follows it is put back. Raises Unknown."""
    if head.startswith(_LZ4_LEGACY):
        return _unpack_lz4(source)
    for magic, make in _DECOMPRESSORS.items():
        if head.startswith(magic):
            return _unpack_with(source, make())
    raise Unknown(f"compressed in a way that is not known (begins with {head.hex()})")


_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20),
    b"\x5d\0\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor(max_window_size=256 << 20).decompressobj(),
    b"\x04\x22\x4d\x18": lz4.frame.LZ4FrameDecompressor,
    b"BZh": bz2.BZ2Decompressor,
}
_ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, RuntimeError, EOFError, ValueError)


def _unpack_with(source: Source, decompressor: Any) -> Iterator[bytes]:
    try:
        while not decompressor.eof and (piece := source.read(PIECE_BYTES)):
            yield decompressor.decompress(piece)
    except _ERRORS as error:
        raise Unknown(f"it cannot be unpacked: {error}") from error
    source.back(decompressor.unused_data or b"")


def _unpack_lz4(source: Source) -> Iterator[bytes]:
    source.read(4)
    while len(size := source.read(4)) == 4:
        length = int.from_bytes(size, "little")
        if size == _LZ4_LEGACY:
            continue
        if not 0 < length <= 2 * _LZ4_BLOCK_BYTES:
            source.back(size)
            return
        try:
            yield lz4.block.decompress(source.read(length), uncompressed_size=_LZ4_BLOCK_BYTES)
        except lz4.block.LZ4BlockError as error:
            raise Unknown(f"it cannot be unpacked: {error}") from error


def _bounded(pieces: Iterator[bytes]) -> Callable[[], bytes]:
    """Raises Unknown when more comes out than any initramfs has."""
    total = 0

    def more() -> bytes:
        nonlocal total
        piece = next((piece for piece in pieces if piece), b"")
        total += len(piece)
        if total > MAX_UNPACKED_BYTES:
            raise Unknown(f"over {MAX_UNPACKED_BYTES >> 30} GiB come out of it")
        return piece

    return more
