"""The spool's file: what was synced comes back after any crash, what was not does not count, and lies are noticed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.engine.spool import ENTRY_BYTES, HEAD_BYTES, Chunk, Spool, chain
from rha.engine.spooler import Decision, decide
from rha.errors import StorageError

SIZE = 8 << 20
GENERATION, OTHER = "a" * 32, "b" * 32
NOISE = random.Random(9).randbytes(1 << 18)


def content(begin: int, length: int) -> bytes:
    """Bytes of the stream at a position: the same whoever writes them, and in whatever pieces."""
    at = begin % len(NOISE)
    return (NOISE * (length // len(NOISE) + 2))[at : at + length]


def filled(spool: Spool, begin: int, lengths: list[int]) -> int:
    """Writes, syncs and adds chunks; returns the end."""
    for length in lengths:
        assert spool.room(begin, 0) >= length
        chunk = spool.write(begin, content(begin, length), begin + 1)
        spool.sync()
        spool.add(chunk)
        begin += length
    return begin


def read_all(spool: Spool) -> bytes:
    at, found = spool.begin, b""
    while chunk := spool.find(at):
        found += spool.read(chunk)
        at = chunk.end
    return found


def test_round_and_round(tmp_path: Path) -> None:
    """Many times its size goes through it; chunks lie across the end of the file, too."""
    spool = Spool.open(tmp_path / "s", SIZE, GENERATION, 0)
    end, released = 8 * 1001, 8 * 1001
    for _ in range(60):
        end = filled(spool, end, [999_992])
        if spool.room(end, 0) < 999_992:
            released = end - 2_000_000
            spool.release(released)
        assert read_all(spool) == content(spool.begin, spool.used_bytes)
        assert spool.begin <= released or released == 8 * 1001
    spool.close()


LENGTHS = st.lists(st.integers(1, 40_000).map(lambda n: n * 8), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 12), LENGTHS, st.randoms())
def test_crash_keeps_what_was_given_back(
    tmp_path_factory: pytest.TempPathFactory, kept: list[int], acknowledged: int, torn: list[int], draw: random.Random
) -> None:
    """What the ring has released is there; what was only written may be anything and does not count."""
    path = tmp_path_factory.mktemp("spool") / "s"
    spool = Spool.open(path, SIZE, GENERATION, 0)
    begin = draw.randrange(1 << 20) * 8
    end = filled(spool, begin, kept)
    chunks = list(spool._chunks)
    for chunk in chunks[: min(acknowledged, len(chunks))]:
        spool.release(chunk.end)
    first = spool.begin
    at = end
    for length in torn:
        if spool.room(end, len(torn)) < at + length - end:
            break
        chunk = spool.write(at, content(at, length), 1)
        if draw.random() < 0.5:  # the power went: another order of blocks, or none
            place = spool._data_start + chunk.begin % spool.capacity
            os.pwrite(spool.file, b"\xff" * 8, min(place, SIZE - 8))
        at += length
    spool.close()
    again = Spool.open(path, SIZE, GENERATION, end)
    assert again.end in (end, 0)
    if first:  # all of it acknowledged: nothing need be there
        assert again.begin <= first
        at = first
        while at < end:
            found = again.find(at)
            assert found is not None
            assert again.read(found) == content(found.begin, found.end - found.begin)
            at = found.end
    end = filled(again, end, [8000])
    assert again.end == end
    again.close()


@pytest.mark.parametrize("damage", [HEAD_BYTES, HEAD_BYTES + 17, HEAD_BYTES + ENTRY_BYTES + 40, "data"])
def test_damage_is_noticed(tmp_path: Path, damage: int | str) -> None:
    """A damaged entry ends the chain before it: what is offered is whole. Damaged data is refused when it is read."""
    spool = Spool.open(tmp_path / "s", SIZE, GENERATION, 0)
    end = filled(spool, 8, [80_000, 80_000, 80_000])
    place = spool._data_start + 100_000 if damage == "data" else int(damage)
    before = os.pread(spool.file, 1, place)
    os.pwrite(spool.file, bytes([before[0] ^ 1]), place)
    spool.close()
    again = Spool.open(tmp_path / "s", SIZE, GENERATION, end)
    if damage == "data":
        with pytest.raises(StorageError, match="is damaged"):
            read_all(again)
    else:
        lost = 1 if int(damage) < HEAD_BYTES + ENTRY_BYTES else 2
        assert again.begin == 8 + lost * 80_000
        assert read_all(again) == content(again.begin, again.used_bytes)
    again.close()


def test_another_generation_counts_for_nothing(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s", SIZE, OTHER, 0)
    end = filled(spool, 8, [80_000])
    spool.close()
    again = Spool.open(tmp_path / "s", SIZE, GENERATION, end)
    assert again.used_bytes == 0
    again.close()


def test_another_size_begins_anew(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s", SIZE, GENERATION, 0)
    end = filled(spool, 8, [80_000])
    spool.close()
    larger = Spool.open(tmp_path / "s", 2 * SIZE, GENERATION, end)
    assert larger.used_bytes == 0
    assert (tmp_path / "s").stat().st_size == 2 * SIZE
    assert (tmp_path / "s").stat().st_blocks * 512 >= 2 * SIZE, "room for all of it"
    larger.close()


def test_two_engines_on_one_spool(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s", SIZE, GENERATION, 0)
    with pytest.raises(StorageError) as refused:
        Spool.open(tmp_path / "s", SIZE, GENERATION, 0)
    assert refused.value.cause == "another process has it"
    spool.close()


def test_file_of_zeros_is_taken_another_file_is_not(tmp_path: Path) -> None:
    zeros, text = tmp_path / "zeros", tmp_path / "text"
    zeros.write_bytes(bytes(10_000))
    Spool.open(zeros, SIZE, GENERATION, 0).close()
    text.write_bytes(b"something of somebody")
    with pytest.raises(StorageError, match="is no spool"):
        Spool.open(text, SIZE, GENERATION, 0)
    assert text.read_bytes() == b"something of somebody"


def test_chain_has_no_hole_and_ends_where_the_ring_begins() -> None:
    a, b, c, d = (Chunk(begin, begin + 10, 0, 0) for begin in (0, 10, 20, 30))
    assert chain([d, a, c, b], 40, 0) == [a, b, c, d]
    assert chain([a, b, d], 40, 0) == [d]
    assert chain([a, b, c, d], 30, 0) == [a, b, c], "what the ring still holds does not count"
    assert chain([a, b, c], 35, 0) == []
    assert chain([a, b, c, d], 40, 15) == [c, d], "written over"


WAIT = "that wait for the appliance"


@pytest.mark.parametrize(
    ("ring", "room", "used", "was", "expected"),
    [
        (0.4, SIZE, 0, False, Decision(False, "empty: the ring suffices")),
        (0.5, SIZE, 0, False, Decision(True, f"takes over from the ring (50% full); holds 0 B {WAIT}")),
        (0.3, SIZE, 1 << 20, True, Decision(True, f"takes over from the ring (30% full); holds 1 MiB {WAIT}")),
        (0.2, SIZE, 1 << 20, True, Decision(False, f"holds 1 MiB {WAIT}")),
        (0.3, SIZE, 1 << 20, False, Decision(False, f"holds 1 MiB {WAIT}")),
        (0.9, 1000, 8 << 20, True, Decision(False, f"full: holds 8 MiB {WAIT}; the ring is 90% full")),
    ],
)
def test_when_to_spool(ring: float, room: int, used: int, was: bool, expected: Decision) -> None:
    assert decide(ring, room, used, was_spilling=was) == expected
