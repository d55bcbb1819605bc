"""The disks at an LSN, by a straight replay of the recorded frames: no reducing, no undo, no code of the product.

A program of its own, too: straight.py LSN DISK_BYTES… < FRAMES > IMAGES
"""

import struct
import sys
from collections.abc import Iterable

RECORDS, RESYNC = 16, 17
WRITE, FLUSH, ZEROS_FLAG = 1, 5, 1


def replay(frames: Iterable[bytes], lsn: int, sizes: list[int]) -> list[bytearray]:
    """Applies every record that ends at or before the LSN, and every other frame that stands there or before."""
    disks = [bytearray(size) for size in sizes]
    for frame in frames:
        kind, flags, disk = frame[5], frame[7], struct.unpack_from("<H", frame, 8)[0]
        (raw_length,) = struct.unpack_from("<I", frame, 16)
        frame_lsn, _, offset = struct.unpack_from("<QQQ", frame, 24)
        payload = frame[72 : 72 + raw_length]
        if kind == RECORDS:
            _records(disks, payload, lsn - frame_lsn)
        elif kind == RESYNC and frame_lsn <= lsn:
            data = bytes(struct.unpack("<Q", payload[:8])[0]) if flags & ZEROS_FLAG else payload
            disks[disk][offset : offset + len(data)] = data
    return disks


def _records(disks: list[bytearray], run: bytes, limit: int) -> None:
    at = 0
    while at < len(run):
        length, _, sector, size, disk, op = struct.unpack_from("<IIQIHB", run, at)
        end = at + 8 + (length + 7 & ~7)
        if end > limit:
            return
        if op != FLUSH:
            data = run[at + 32 : at + 32 + size] if op == WRITE else bytes(size)
            disks[disk][sector * 512 : sector * 512 + size] = data
        at = end


def split(stream: bytes) -> Iterable[bytes]:
    """Whole frames of a run of them."""
    at = 0
    while at < len(stream):
        (length,) = struct.unpack_from("<I", stream, at + 12)
        yield stream[at : at + 72 + length]
        at += 72 + length


if __name__ == "__main__":
    for content in replay(split(sys.stdin.buffer.read()), int(sys.argv[1]), [int(word) for word in sys.argv[2:]]):
        sys.stdout.buffer.write(content)
