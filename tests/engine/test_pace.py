"""The limit holds over any time longer than a frame; sync data yields to records and is never starved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.engine.pace import (
    BULK_SHARE,
    BURST_SECONDS,
    GATHER_BYTES,
    GATHER_SECONDS,
    IDLE_SECONDS,
    Bucket,
    Gathering,
    Turns,
    idle_wait,
)

MIB = 1 << 20


@given(
    st.integers(16 << 10, 100 * MIB),
    st.lists(st.tuples(st.integers(72, MIB), st.floats(0, 0.5)), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_and_one_frame(rate: int, frames: list[tuple[int, float]]) -> None:
    bucket, now, sent = Bucket(rate), 0.0, 0
    for size, idle in frames:
        now += idle
        wait = bucket.wait_seconds(now)
        now += wait
        assert sent <= rate * (now + BURST_SECONDS) * (1 + 1e-9) + 1, "before this frame the debt is paid"
        bucket.spend(size, now)
        sent += size


@given(st.integers(16 << 10, 100 * MIB), st.integers(72, MIB))
def test_a_busy_sender_gets_the_whole_rate(rate: int, size: int) -> None:
    bucket, now = Bucket(rate), 0.0
    for _ in range(50):
        now += bucket.wait_seconds(now)
        bucket.spend(size, now)
    assert now == pytest.approx(49 * size / rate)


def test_no_rate_no_wait() -> None:
    bucket = Bucket()
    bucket.spend(1 << 40, 0.0)
    assert bucket.wait_seconds(0.0) == 0.0


def test_another_rate_keeps_the_debt_and_not_the_savings() -> None:
    bucket = Bucket(1000)
    bucket.spend(1000, 0.0)
    bucket.set_rate(100, 0.0)
    assert bucket.wait_seconds(0.0) == pytest.approx(10)
    saved = Bucket(1 << 30)
    assert saved.wait_seconds(0.0) == saved.wait_seconds(10.0) == 0.0
    saved.set_rate(100, 10.0)
    saved.spend(100, 10.0)
    assert saved.wait_seconds(10.0) == pytest.approx(1)


def shares(ring_used: float) -> tuple[int, int]:
    """Bytes of records and of bulk when both always wait."""
    turns, records, bulk = Turns(), 0, 0
    for _ in range(4000):
        if turns.is_bulk_next(records_wait=True, bulk_waits=True, ring_used=ring_used):
            turns.sent_bulk(MIB)
            bulk += MIB
        else:
            turns.sent_records(256 << 10)
            records += 256 << 10
    return records, bulk


def test_sync_has_its_small_share() -> None:
    records, bulk = shares(0.1)
    assert bulk / (records + bulk) == pytest.approx(1 / BULK_SHARE, rel=0.02)


def test_a_filling_ring_takes_everything() -> None:
    assert shares(0.6)[1] == 0


def test_alone_there_is_nobody_to_yield_to() -> None:
    turns = Turns()
    turns.sent_bulk(100 * MIB)
    assert turns.is_bulk_next(records_wait=False, bulk_waits=True, ring_used=0.9)
    assert not turns.is_bulk_next(records_wait=True, bulk_waits=False, ring_used=0.0)


def test_records_are_gathered_while_others_are_under_way() -> None:
    gathering = Gathering()
    assert gathering.wait_seconds(100, under_way=True, now=0.0) == 0.0, "the first goes at once"
    gathering.sent(0.0)
    assert gathering.wait_seconds(100, under_way=True, now=0.004) == pytest.approx(GATHER_SECONDS - 0.004)
    assert gathering.wait_seconds(100, under_way=False, now=0.004) == 0.0, "nothing to hide behind"
    assert gathering.wait_seconds(GATHER_BYTES, under_way=True, now=0.004) == 0.0, "large enough"
    assert gathering.wait_seconds(100, under_way=True, now=GATHER_SECONDS) == 0.0, "never longer"


def test_a_ring_that_stays_empty_is_looked_at_less_and_less_often() -> None:
    ring = 64 << 20
    assert idle_wait(0.0, ring) == idle_wait(0.016, ring) == IDLE_SECONDS[0]
    assert idle_wait(0.08, ring) == pytest.approx(0.005)
    assert idle_wait(3600.0, 1 << 30) == IDLE_SECONDS[1]


def test_a_small_ring_is_not_left_alone_for_longer_than_a_burst_needs_to_fill_it() -> None:
    assert idle_wait(3600.0, 64 << 20) == pytest.approx((64 << 20) / 8e9)
    assert idle_wait(3600.0, 1 << 20) == IDLE_SECONDS[0]
