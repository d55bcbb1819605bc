"""Which part of the stream a question has to wait for. The oracle looks at every frame."""

from __future__ import annotations

import random

import pytest

from rha.appliance.before import MOST_RANGES, Before
from rha.wire import frames
from rha.wire.frames import FrameType, Header

PAGE = 4096


def taken(before: Before, kind: FrameType, disk: int, page: int, pages: int, position: int, zeros: bool) -> None:
    payload = frames.zeros_payload(pages * PAGE) if zeros else bytes(8)
    flags = frames.FLAG_ZEROS if zeros else 0
    raw = len(payload) if zeros else pages * PAGE
    before.taken(Header(kind, flags, disk, 8, raw, 0, 0, page * PAGE, 0, 0), memoryview(payload), position)


@pytest.mark.parametrize("seed", range(20))
def test_all_that_concerns_the_range_and_no_sync_data_of_others(seed: int) -> None:
    draw, before = random.Random(seed), Before(7)
    seen: list[tuple[int, FrameType, int, range]] = []
    for position in range(10, 10 + MOST_RANGES):
        kind = FrameType.RECORDS if draw.random() < 0.05 else FrameType.RESYNC
        disk, page, pages = draw.randrange(2), draw.randrange(50), draw.randint(1, 16)
        taken(before, kind, disk, page, pages, position, draw.random() < 0.3)
        seen.append((position, kind, disk, range(page, page + pages)))
        asked_disk, asked = draw.randrange(2), draw.randrange(60)
        concerned = [
            at for at, was, whose, where in seen if was is FrameType.RECORDS or (whose == asked_disk and asked in where)
        ]
        assert before.position_for(asked_disk, asked * PAGE, PAGE) == max(concerned, default=7)


def test_what_is_no_longer_kept_apart_is_waited_for() -> None:
    before = Before(0)
    for number in range(MOST_RANGES + 10):
        taken(before, FrameType.RESYNC, 0, number, 1, 100 + number, False)
    assert before.position_for(1, 0, PAGE) == 109
    assert before.position_for(0, (MOST_RANGES + 9) * PAGE, PAGE) == 100 + MOST_RANGES + 9


def test_a_length_that_is_packed_is_not_guessed() -> None:
    before = Before(0)
    head = Header(FrameType.RESYNC, frames.FLAG_ZEROS, 0, 16, 8, 0, 0, 0, 0, 0, codec=1)
    before.taken(head, memoryview(bytes(16)), 50)
    assert before.position_for(1, 0, PAGE) == 50
