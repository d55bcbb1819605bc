"""What a switchback asks and sends: against a receiver in memory that does as told, and one that does not."""

from __future__ import annotations

import random
from collections import deque

import pytest

from rha.appliance.sending import (
    PAGES_BYTES,
    PIECE_BYTES,
    UNDER_WAY_BYTES,
    WINDOW_BYTES,
    WINDOW_RANGES,
    Sending,
    Unverified,
    windows,
)
from rha.errors import StateError
from rha.hashing import Buffer
from rha.sync.blocks import BLOCK_BYTES, PAGE_BYTES, UNITS, digests
from rha.sync.refine import PROBE_EVERY
from rha.wire import codec, frames
from rha.wire.codec import Decompressor, Packed
from rha.wire.frames import BadFrame, FrameType

MIB = 1 << 20
SIZE = 5 * MIB + 4096 + 512  # not a whole number of blocks, nor of pages


class Line:
    """The receiver's disks. `sent`: bytes as they travelled; `lie`: changes an answer."""

    def __init__(self, disks: list[bytearray]) -> None:
        self.disks, self.sent, self.asked = disks, 0, 0
        self.answers: deque[tuple[int, int, int, bytes]] = deque()
        self.lie = lambda answer: answer
        self._decompressor = Decompressor()

    def want(self, disk: int, unit: int, ranges: list[tuple[int, int]]) -> None:
        for offset, length in ranges:
            for at in range(offset, offset + length, PIECE_BYTES):
                end = min(at + PIECE_BYTES, offset + length)
                self.asked += end - at
                found = digests(memoryview(self.disks[disk])[at:end], UNITS[unit])
                self.answers.append((disk, at, unit, found))

    def hashes(self) -> tuple[int, int, int, bytes]:
        return self.lie(self.answers.popleft())

    def send(self, disk: int, offset: int, packed: Packed) -> None:
        head = frames.encode(
            FrameType.RESYNC, packed.payload, disk=disk, offset=offset, raw_length=packed.raw_length,
            codec=packed.codec, pad=packed.pad, raw_sum=packed.raw_sum,
        )  # fmt: skip
        header, payload = self._decompressor.unpack(frames.decode_header(head), memoryview(packed.payload))
        self.sent += len(packed.payload)
        self._write(disk, offset, payload[: header.raw_length])

    def send_zeros(self, disk: int, offset: int, length: int) -> None:
        self._write(disk, offset, bytes(length))

    def _write(self, disk: int, offset: int, data: Buffer) -> None:
        assert offset % 512 == len(data) % 512 == 0
        assert offset + len(data) <= len(self.disks[disk])
        self.disks[disk][offset : offset + len(data)] = data


class Source:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < offset + length <= len(self.content)
        return self.content[offset : offset + length]


class Site:
    def __init__(self, wanted: list[bytes], there: list[bytes], *, check=lambda: None, by: int = codec.LZ4) -> None:
        self.line = Line([bytearray(content) for content in there])
        self.unverified = Unverified([len(content) for content in wanted])
        sources = [Source(content) for content in wanted]
        self.sending = Sending(self.line, sources, self.unverified, rates=lambda: (0, 0), check=check, codec=by)  # type: ignore[arg-type]
        self.whole = [[(0, len(content))] for content in wanted]


def changed(content: bytes, draw: random.Random, pages: int) -> bytes:
    found = bytearray(content)
    for _ in range(pages):
        at = PAGE_BYTES * draw.randrange(len(content) // PAGE_BYTES)
        found[at : at + PAGE_BYTES] = draw.choice([draw.randbytes(PAGE_BYTES), bytes(PAGE_BYTES)])
    return bytes(found)


@pytest.mark.parametrize("by", [codec.NONE, codec.LZ4, codec.ZSTD])
def test_the_disks_become_equal_and_little_travels(by):
    draw = random.Random(7)
    there = [draw.randbytes(SIZE), bytes(MIB)]
    wanted = [changed(there[0], draw, 12), changed(there[1], draw, 5)]
    site = Site(wanted, there, by=by)
    tally = site.sending.bring(site.whole)
    assert [bytes(disk) for disk in site.line.disks] == wanted
    assert (tally.compared, tally.total) == (SIZE + MIB, SIZE + MIB)
    assert 0 < tally.differing <= 17 * PAGE_BYTES
    assert site.line.sent <= tally.differing


def test_a_disk_of_which_nothing_is_right_is_not_asked_about_twice():
    draw = random.Random(8)
    size = 96 * MIB
    site = Site([draw.randbytes(size)], [bytes(size)], by=codec.NONE)
    tally = site.sending.bring(site.whole)
    assert tally.differing == size
    again = site.line.asked - size  # by page
    assert again <= UNDER_WAY_BYTES + (size - UNDER_WAY_BYTES) // PROBE_EVERY + 2 * PAGES_BYTES


def test_only_the_ranges_that_were_named():
    draw = random.Random(9)
    there, wanted = bytes(4 * MIB), draw.randbytes(4 * MIB)
    site = Site([wanted], [there])
    site.sending.bring([[(MIB, BLOCK_BYTES), (3 * MIB, MIB)]])
    mine = site.line.disks[0]
    assert mine[MIB : MIB + BLOCK_BYTES] + mine[3 * MIB :] == wanted[MIB : MIB + BLOCK_BYTES] + wanted[3 * MIB :]
    assert not any(mine[:MIB] + mine[MIB + BLOCK_BYTES : 3 * MIB])


def test_what_was_sent_is_unverified_until_it_was_read_back():
    draw = random.Random(10)
    there = draw.randbytes(4 * MIB)
    site = Site([changed(there, draw, 3)], [there])
    site.sending.bring(site.whole)
    assert 1 <= site.unverified.bytes // BLOCK_BYTES <= 3
    todo = site.unverified.together([[(4 * MIB - BLOCK_BYTES, BLOCK_BYTES)]])
    assert site.sending.differences(todo) == []
    assert site.unverified.bytes == 0
    assert sum(length for own in todo for _, length in own) <= 4 * BLOCK_BYTES


def test_a_device_that_does_not_keep_what_was_written():
    draw = random.Random(11)
    there = draw.randbytes(2 * MIB)
    site = Site([changed(there, draw, 3)], [there])
    site.sending.bring(site.whole)
    before = site.unverified.bytes
    [[(offset, _)]] = [own[:1] for own in site.unverified.together([[]])]
    site.line.disks[0][offset] ^= 1
    assert site.sending.differences(site.whole) == [(0, offset, BLOCK_BYTES)]
    assert site.unverified.bytes == BLOCK_BYTES <= before


LIES = {
    "another disk": lambda answer: (1, *answer[1:]),
    "another place": lambda answer: (answer[0], answer[1] + BLOCK_BYTES, *answer[2:]),
    "another unit": lambda answer: (*answer[:2], frames.FLAG_SECTORS, answer[3]),
    "too few": lambda answer: (*answer[:3], answer[3][:-16]),
    "too many": lambda answer: (*answer[:3], answer[3] + bytes(16)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_to_another_question(lie):
    site = Site([bytes(MIB)], [bytes(MIB)])
    site.line.lie = lie
    with pytest.raises(BadFrame, match="answers another question"):
        site.sending.bring(site.whole)


def test_wrong_digests_only_make_it_send_more():
    site = Site([bytes(MIB)], [bytes(MIB)])
    site.line.lie = lambda answer: (*answer[:3], bytes(len(answer[3])))
    assert site.sending.bring(site.whole).differing == MIB


def test_it_ends_when_it_is_told():
    def check() -> None:
        raise StateError("enough")

    site = Site([bytes(MIB)], [bytes(MIB)], check=check)
    with pytest.raises(StateError, match="enough"):
        site.sending.bring(site.whole)


def test_windows_are_bounded_and_hold_everything():
    ranges = [(0, 3 * WINDOW_BYTES + 512)] + [(n << 30, 65536) for n in range(1, WINDOW_RANGES * 2)]
    found = list(windows(ranges))
    assert all(sum(length for _, length in one) <= WINDOW_BYTES for one in found)
    assert all(len(one) <= WINDOW_RANGES for one in found)
    merged: list[tuple[int, int]] = []
    for offset, length in (part for one in found for part in one):
        if merged and merged[-1][0] + merged[-1][1] == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    assert merged == ranges
