"""Records of a run that was copied out of the ring: cut at records, and nothing outside the run is looked at."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.capture.ring import region_of
from rha.errors import StorageError

BEGIN = 1 << 40


def record(payload: int, time_ns: int) -> bytes:
    """Ring header, struct rha_record of a write, payload, padding."""
    body = struct.pack("<QIHBBQ", 0, payload, 0, 1, 0, time_ns) + bytes(payload)
    whole = struct.pack("<II", len(body), 0) + body
    return whole + bytes(-len(whole) % 8)


RUNS = st.lists(st.integers(0, 40).map(lambda n: n * 512), min_size=1, max_size=20)


@given(RUNS, st.integers(1, 60_000))
def test_regions_join_and_end_at_records(payloads: list[int], longest: int) -> None:
    parts = [record(size, i + 1) for i, size in enumerate(payloads)]
    run, ends, at = b"".join(parts), {BEGIN}, BEGIN
    for part in parts:
        at += len(part)
        ends.add(at)
    at, found, count = BEGIN, b"", 0
    while at < BEGIN + len(run):
        region = region_of(run, BEGIN, at, longest)
        assert region.begin == at
        assert region.end in ends
        assert region.end - at <= longest or region.records == 1
        found, count, at = found + bytes(region.data), count + region.records, region.end
    assert found == run
    assert count == len(payloads)


@given(RUNS, st.integers(0, 100_000))
def test_no_record_from_the_limit_on(payloads: list[int], limit: int) -> None:
    run = b"".join(record(size, 1) for size in payloads)
    region = region_of(run, BEGIN, BEGIN, 1 << 30, BEGIN + limit)
    starts, at = [], 0
    for size in payloads:
        starts.append(at)
        at += len(record(size, 1))
    assert region.records == sum(start < limit for start in starts)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 210))
def test_garbage_is_refused_or_stays_inside(run: bytes, offset: int) -> None:
    try:
        region = region_of(run, BEGIN, BEGIN + offset, 1 << 20)
    except StorageError:
        return
    assert BEGIN + offset <= region.end <= BEGIN + len(run)
    assert len(region.data) == region.end - region.begin


def test_outside_the_run() -> None:
    for at in (BEGIN - 8, BEGIN + 16):
        with pytest.raises(StorageError, match="damaged"):
            region_of(bytes(8), BEGIN, at, 100)
