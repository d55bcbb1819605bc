"""What a follower is shown from memory is what the files hold; what finds no room comes from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.journal.reader import Entry
from rha.journal.sealing import PLAIN_ONLY, Keyring, make_key
from rha.journal.segment import Journal
from rha.journal.tail import Room, Tail
from rha.wire import frames
from rha.wire.frames import FrameType

KEYS = Keyring(make_key(bytes(32)))


def frame(number: int, size: int) -> list[bytes]:
    payload = bytes([number % 251]) * size
    return [frames.encode(FrameType.RECORDS, payload, lsn=number, seq=number), payload]


def plain(entries: list[Entry]) -> list[tuple[int, int, bytes]]:
    return [(entry.header.seq, entry.next_position, bytes(entry.payload)) for entry in entries]


@pytest.mark.parametrize("keys", [PLAIN_ONLY, KEYS])
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["append", "follow", "skip"]), st.integers(1, 40)), max_size=40))
def test_followed_is_what_is_read(tmp_path_factory, keys: Keyring, steps: list[tuple[str, int]]) -> None:
    """Small segments and hardly any room in memory, so that following goes through both, and over their edges."""
    folder = tmp_path_factory.mktemp("journal")
    with Journal.open(folder, segment_bytes=4096, keys=keys) as journal:
        journal._tail = Tail(600, Room(1 << 20))
        at = count = 0
        followed: list[Entry] = []
        for what, size in steps:
            if what == "append":
                count += 1
                journal.append(frame(count, size * 8))
            elif what == "follow":
                followed += (found := list(journal.follow(at, journal.end)))
                at = found[-1].next_position if found else at
                journal.forget(at)
            else:
                followed += list(journal.read(at))
                at = journal.end
                journal.forget(at)
        while at < journal.end:
            followed += (found := list(journal.follow(at, journal.end)))
            at = found[-1].next_position
        assert plain(followed) == plain(list(journal.read(0)))
        assert [entry.header.seq for entry in followed] == list(range(1, count + 1))


def test_what_is_in_memory_needs_no_file(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        assert list(journal.follow(0, 0)) == []  # from now on there is somebody who follows
        ends = [journal.append(frame(number, 64)) for number in range(4)]
        next(tmp_path.glob("*.journal")).unlink()
        assert [entry.header.seq for entry in journal.follow(ends[0], ends[2])] == [1, 2]
        with pytest.raises(FileNotFoundError):
            list(journal.read(ends[0], ends[2]))


def test_a_hole_ends_a_run(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal._tail = Tail(100, Room(100))
        list(journal.follow(0, 0))
        ends = [journal.append(frame(number, 80)) for number in range(2)]  # the second finds no room
        assert [entry.header.seq for entry in journal.follow(0, ends[1])] == [0]
        journal.forget(ends[0])
        ends.append(journal.append(frame(2, 80)))
        assert [entry.header.seq for entry in journal.follow(ends[0], ends[2])] == [1, 2]
        assert [entry.header.seq for entry in journal.follow(ends[1], ends[2])] == [2]


def test_nothing_is_kept_for_nobody() -> None:
    shared = Room(100)
    kept = Tail(100, shared)
    kept.add(entry_at(0, bytes(80)))
    assert kept.run(0, 1000) == []
    kept.add(entry_at(80, bytes(80)))
    assert [one.position for one in kept.run(80, 1000)] == [80]


def test_the_oldest_stay_and_memory_is_given_back() -> None:
    shared = Room(250)
    first, second = Tail(200, shared), Tail(200, shared)
    first.run(0, 0), second.run(0, 0)
    for position in range(0, 400, 100):
        first.add(entry_at(position, bytes(100)))
    assert [one.position for one in first.run(0, 1000)] == [0, 100]  # its own limit
    second.add(entry_at(0, bytes(60)))
    assert second.run(0, 1000) == []  # the common one
    first.forget(100)
    second.add(entry_at(60, bytes(60)))
    assert [one.position for one in second.run(60, 1000)] == [60]
    first.close(), second.close()
    assert shared.take(250)


def test_a_slice_counts_as_what_it_keeps() -> None:
    kept = Tail(1000, Room(10_000))
    kept.run(0, 0)
    whole = memoryview(bytes(900))
    kept.add(entry_at(0, whole[:8]))
    kept.add(entry_at(8, whole[8:16]))
    assert [one.position for one in kept.run(0, 1000)] == [0]


def entry_at(position: int, payload: bytes | memoryview) -> Entry:
    header = frames.decode_header(frames.encode(FrameType.RECORDS, bytes(8)))
    return Entry(position, header, memoryview(payload), position + len(payload))
