import contextlib
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.journal.extents import DATA, BadRecords, Batch, check_records, rows

DISK_BYTES = [64 * 512, 40 * 512]
WRITE, DISCARD, ZEROES, ERASE, FLUSH = range(1, 6)


def record(op: int, disk: int, sector: int, sectors: int, fill: int = 0, time_ns: int = 0) -> bytes:
    """One record as it stands in the ring (csrc/record.h)."""
    body = struct.pack("<QIHBBQ", sector, sectors * 512, disk, op, 0, time_ns)
    if op == WRITE:
        body += bytes([fill]) * (sectors * 512)
    return struct.pack("<II", len(body), 0) + body + bytes(-len(body) % 8)


def skipped(size: int) -> bytes:
    return struct.pack("<II", size | 1 << 30, 0) + b"\xaa" * (size + -size % 8)


@st.composite
def operations(draw):
    disk = draw(st.integers(0, 1))
    sector = draw(st.integers(0, DISK_BYTES[disk] // 512))
    sectors = draw(st.integers(0, min(9, DISK_BYTES[disk] // 512 - sector)))
    how = draw(st.sampled_from(["record", "range", "zeros"]))
    return how, draw(st.integers(WRITE, FLUSH)), disk, sector, sectors, draw(st.integers(1, 255))


def replay(images, how, op, disk, sector, sectors, fill):
    """The scalar reference: a byte array, written straight."""
    if how == "record" and op == FLUSH:
        return
    data = how == "range" or (how == "record" and op == WRITE)
    images[disk][sector * 512 : (sector + sectors) * 512] = bytes([fill if data else 0]) * (sectors * 512)


def add(batch, how, op, disk, sector, sectors, fill):
    if how == "record":
        batch.add_records(skipped(fill) + record(op, disk, sector, sectors, fill))
    elif how == "range":
        batch.add_range(disk, sector * 512, bytes([fill]) * (sectors * 512))
    else:
        batch.add_zeros(disk, sector * 512, sectors * 512)


@settings(max_examples=400, deadline=None)
@given(st.lists(operations(), max_size=60))
def test_reduced_batch_leaves_what_straight_replay_leaves(work):
    straight, reduced = ([bytearray(b"\xee" * size) for size in DISK_BYTES] for _ in range(2))
    batch = Batch(DISK_BYTES)
    for one in work:
        replay(straight, *one)
        add(batch, *one)
    found, data = batch.reduce()
    extents = list(rows(found))
    for extent in extents:
        piece = data[extent.data : extent.data + extent.length] if extent.kind == DATA else bytes(extent.length)
        reduced[extent.disk][extent.offset : extent.offset + extent.length] = piece
    assert reduced == straight
    places = [(extent.disk, extent.offset, extent.offset + extent.length) for extent in extents]
    assert places == sorted(places)
    for (disk, _, end), (next_disk, start, _) in itertools.pairwise(places):
        assert disk != next_disk or end <= start


def test_neighbours_become_one_write():
    batch = Batch([1 << 20])
    run = b"".join(record(WRITE, 0, sector, 8, sector) for sector in (16, 0, 8, 24))
    found = batch.add_records(run)
    assert (found.records, found.payload_bytes) == (4, 4 * 4096)
    extents, data = batch.reduce()
    assert list(rows(extents)) == [(0, DATA, 0, 4 * 4096, 0)]
    assert [data[at * 4096] for at in range(4)] == [0, 8, 16, 24]


def test_clear_empties():
    batch = Batch([1 << 20])
    batch.add_zeros(0, 0, 512)
    batch.clear()
    assert len(batch.reduce()[0]) == 0


def test_refused_run_leaves_the_batch_as_it_was():
    batch = Batch([64 * 512])
    good = record(WRITE, 0, 0, 1, 1, time_ns=5)
    with pytest.raises(BadRecords) as caught:
        batch.add_records(good + record(WRITE, 0, 64, 1))
    assert caught.value.cause == f"a range beyond the end of its disk (at byte {len(good)})"
    assert len(batch.reduce()[0]) == 0


@pytest.mark.parametrize("act", [lambda b: b.add_zeros(0, 512, 1 << 63), lambda b: b.add_range(0, 0, bytes(513))])
def test_ranges_are_checked(act):
    with pytest.raises(BadRecords, match="beyond the end"):
        act(Batch([512]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 199), st.integers(0, 255))
def test_hostile_bytes_are_refused_or_counted(noise, at, byte):
    run = bytearray(record(WRITE, 0, 3, 1, 7) + record(DISCARD, 1, 0, 4) + noise)
    run[at % len(run)] = byte
    with contextlib.suppress(BadRecords):
        assert check_records(run, DISK_BYTES).records <= len(run) // 32
