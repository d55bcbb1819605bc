"""A made-up stream for tests of the applier: the same frames for the same seed, and what they leave on the disks."""

import random
import struct

from rha.wire import frames, messages
from rha.wire.frames import FrameType

DISK_BYTES = [96 << 20, 32 << 20]
SECTOR = 512
WRITE, DISCARD, ZEROES, ERASE, FLUSH = range(1, 6)


def record(op: int, disk: int, sector: int, length: int, payload: bytes = b"") -> bytes:
    """One record as it stands in the ring (csrc/record.h)."""
    body = struct.pack("<QIHBBQ", sector, length, disk, op, 0, 1) + payload
    return struct.pack("<II", len(body), 0) + body + bytes(-len(body) % 8)


def _range(draw: random.Random) -> tuple[int, int, int]:
    """disk, byte offset, length; mostly in a small part, so that writes overlap, else anywhere in new clusters."""
    disk = draw.randrange(len(DISK_BYTES))
    length = SECTOR * draw.choice([1, 3, 8, 8, 8, 32, 128])
    end = DISK_BYTES[disk] if draw.random() < 0.3 else 1 << 20
    return disk, draw.randrange((end - length) // SECTOR) * SECTOR, length


class Stream:
    """`frames`: whole frames as bytes; `images`: the disks after all of them, each written straight."""

    def __init__(self, seed: int, count: int) -> None:
        self.images = [bytearray(size) for size in DISK_BYTES]
        self.frames: list[bytes] = []
        self.lsn = 1 << 20
        draw = random.Random(seed)
        for number in range(count):
            self.frames.append(draw.choices([self._records, self._resync, self._mark], [8, 2, 0.5])[0](draw, number))

    def _frame(self, type: FrameType, payload: bytes, number: int, **fields: int) -> bytes:
        return frames.encode(type, payload, lsn=self.lsn, seq=number, time_ns=1000 + number, **fields) + payload

    def _records(self, draw: random.Random, number: int) -> bytes:
        run = b""
        for _ in range(draw.randrange(1, 20)):
            disk, offset, length = _range(draw)
            op = draw.choice([WRITE] * 6 + [DISCARD, ZEROES, ERASE, FLUSH])
            data = draw.randbytes(length) if op == WRITE else bytes(length)
            run += record(op, disk, offset // SECTOR, length, data if op == WRITE else b"")
            if op != FLUSH:
                self.images[disk][offset : offset + length] = data
        whole = self._frame(FrameType.RECORDS, run, number)
        self.lsn += len(run)
        return whole

    def _resync(self, draw: random.Random, number: int) -> bytes:
        disk, offset, length = _range(draw)
        zeros = draw.random() < 0.4
        data = bytes(length) if zeros else draw.randbytes(length)
        self.images[disk][offset : offset + length] = data
        payload, flags = (frames.zeros_payload(length), frames.FLAG_ZEROS) if zeros else (data, 0)
        return self._frame(FrameType.RESYNC, payload, number, disk=disk, offset=offset, flags=flags)

    def _mark(self, draw: random.Random, number: int) -> bytes:
        mark = messages.Mark(epoch=number, disks=[0], method="full")
        return frames.control(FrameType.MARK, mark, lsn=self.lsn, seq=number, time_ns=1000 + number)
