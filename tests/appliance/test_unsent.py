"""What was never sent, against a set of sectors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.appliance.unsent import Unsent
from rha.journal.segment import Journal
from rha.sync import free_frames
from rha.sync.blocks import BLOCK_BYTES, DIFFERS, EQUAL, PARTLY_UNSENT, UNSENT
from rha.wire import frames
from rha.wire.frames import BadFrame, FrameType

SECTORS = 1024
SIZE = SECTORS * 512
RECORD = b"\x18\0\0\0\0\0\0\0"  # ring header: 24 bytes of record, no payload


def discard(sector: int, count: int) -> bytes:
    """A run of one record that changes these sectors and carries nothing (csrc/record.h)."""
    return RECORD + sector.to_bytes(8, "little") + (count * 512).to_bytes(4, "little") + b"\0\0\x02\0" + bytes(8)


def range_frame(sector: int, count: int) -> list[bytes]:
    payload = frames.zeros_payload(count * 512)
    head = frames.encode(FrameType.RESYNC, payload, offset=sector * 512, flags=frames.FLAG_ZEROS)
    return [head, payload]


def records_frame(sector: int, count: int) -> list[bytes]:
    payload = discard(sector, count)
    return [frames.encode(FrameType.RECORDS, payload), payload]


PART = st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 300)).map(
    lambda one: (one[0], min(one[1], SECTORS - one[0]))
)
STEP = st.one_of(
    st.tuples(st.just("free"), PART),
    st.tuples(st.sampled_from(["records", "range"]), PART),
    st.tuples(st.just("restart"), PART),
)


@settings(deadline=None, max_examples=60)  # it syncs files
@given(st.lists(STEP, max_size=12))
def test_it_is_what_was_left_out_less_what_came_later(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("unsent")
    model: set[int] = set()
    with Journal.open(folder / "journal") as journal:
        unsent = Unsent(folder)
        for act, (sector, count) in steps:
            touched = set(range(sector, sector + count))
            if act == "free":
                unsent.add(0, SIZE, [(sector * 512, count * 512)])
                model |= touched
                unsent.save_if_due(journal.sync())
            elif act == "restart":
                journal.sync()
                unsent = Unsent(folder)
                unsent.recall(journal, [SIZE])
            else:
                frame = records_frame(sector, count) if act == "records" else range_frame(sector, count)
                journal.append(frame)
                unsent.follow(frames.decode_header(frame[0]), frame[1])
                model -= touched
            found = {
                at
                for offset, length in unsent.parts(0, 0, SIZE)
                for at in range(offset // 512, (offset + length) // 512)
            }
            assert found == model


def test_flags_tell_the_three_kinds_of_difference(tmp_path: Path) -> None:
    unsent = Unsent(tmp_path)
    size = 5 * BLOCK_BYTES + 512
    unsent.add(0, size, [(BLOCK_BYTES, BLOCK_BYTES), (2 * BLOCK_BYTES + 512, 512), (5 * BLOCK_BYTES, 512)])
    flags = bytes([DIFFERS, DIFFERS, DIFFERS, EQUAL, DIFFERS, DIFFERS])
    assert list(unsent.judge(0, 0, BLOCK_BYTES, flags)) == [DIFFERS, UNSENT, PARTLY_UNSENT, EQUAL, DIFFERS, UNSENT]
    assert list(unsent.judge(0, 2 * BLOCK_BYTES, 512, bytes([DIFFERS] * 3))) == [DIFFERS, UNSENT, DIFFERS]
    assert unsent.judge(1, 0, BLOCK_BYTES, flags) == flags
    unsent.clear(0)
    assert unsent.judge(0, 0, BLOCK_BYTES, flags) == flags


def test_a_journal_that_does_not_reach_back_hides_nothing(tmp_path: Path) -> None:
    """What came between may have written there: a difference is told rather than passed over."""
    with Journal.open(tmp_path / "journal", segment_bytes=4096) as journal:
        unsent = Unsent(tmp_path)
        unsent.add(0, SIZE, [(0, SIZE)])
        unsent.save(0)
        for _ in range(200):
            journal.append(records_frame(8, 8))
        journal.trim(journal.sync())
        assert journal.first > 0
        again = Unsent(tmp_path)
        again.recall(journal, [SIZE])
        assert again.parts(0, 0, SIZE) == []


@given(st.lists(st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 40)), max_size=30))
def test_ranges_travel(pairs: list[tuple[int, int]]) -> None:
    ranges = [(first * 512, count * 512) for first, count in pairs]
    assert free_frames.decode_ranges(free_frames.encode_ranges(ranges), 2 * SIZE) == ranges


@pytest.mark.parametrize("bad", [(100, 512), (0, 100), (0, 0), (SIZE, 512), (0, SIZE + 512), (512, (1 << 64) - 512)])
def test_ranges_that_cannot_be_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(BadFrame, match="beyond their disk"):
        free_frames.decode_ranges(free_frames.encode_ranges([bad]), SIZE)


def test_half_a_range_is_refused() -> None:
    with pytest.raises(BadFrame, match="cut off"):
        free_frames.decode_ranges(bytes(24), SIZE)
