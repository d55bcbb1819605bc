"""The fold of the stream: every phase with its sentence, and every frame that cannot stand where it does."""

from __future__ import annotations

import pytest

from rha.appliance.stream import DiskState, StreamState, fold
from rha.wire.frames import BadFrame, FrameType, Header
from rha.wire.messages import DiskHello, End, Gap, Hello, Mark

DISKS = [DiskHello(name="root", bytes=1 << 20), DiskHello(name="data", bytes=2 << 20)]


def header(kind: FrameType, lsn: int, length: int = 0, disk: int = 0) -> Header:
    return Header(kind, 0, disk, length, length, lsn, 0, 0, 0, 0)


def hello(generation: str, disks: list[DiskHello] = DISKS) -> Hello:
    return Hello(protocol=1, version="0", scenario={}, host="h", generation=generation, first_lsn=0, disks=disks)


def begun(state: StreamState, generation: str, lsn: int, disks: list[DiskHello] = DISKS) -> StreamState:
    return fold(state, header(FrameType.HELLO, lsn), hello(generation, disks))


def synced(generation: str = "a", lsn: int = 100) -> StreamState:
    """Both disks in write order at `lsn`."""
    state = begun(StreamState(), generation, lsn)
    state = fold(state, header(FrameType.MARK, lsn), Mark(epoch=1, disks=[0, 1], method="full"))
    return fold(state, header(FrameType.END, lsn), End(epoch=1, disks=[0, 1], lsn=lsn))


def test_life_of_a_stream_with_the_reason_at_every_point() -> None:
    state = StreamState()
    assert state.why_not_consistent() == "nothing was received yet"
    state = begun(state, "a", 100)
    assert state.why_not_consistent() == "root: the first sync has not begun"
    assert state.next_lsn is None
    state = fold(state, header(FrameType.MARK, 100), Mark(epoch=1, disks=[0, 1], method="full"))
    assert state.why_not_consistent() == "root: a sync is running"
    state = fold(state, header(FrameType.RESYNC, 100, 4096), None)
    state = fold(state, header(FrameType.RECORDS, 100, 64), None)
    assert state.lsn == 164
    state = fold(state, header(FrameType.END, 164), End(epoch=1, disks=[0, 1], lsn=200))
    assert state.why_not_consistent() == "root: its sync ends 36 bytes of stream later"
    state = fold(state, header(FrameType.RECORDS, 164, 36), None)
    assert state.why_not_consistent() is None
    state = fold(state, header(FrameType.GAP, 200), Gap(disk=1, reason="ring-full", count=1))
    assert state.why_not_consistent() == "data: the disk left write order (ring-full)"
    state = begun(state, "b", 300)
    assert [disk.phase for disk in state.disks] == ["stale", "stale"]
    assert state.why_not_consistent() == "root: the master's capture began anew, the image must be compared"
    assert (state.next_lsn, state.floor) == (None, 200)


def test_a_new_generation_makes_only_unknown_images_new() -> None:
    grown = [DISKS[0], DiskHello(name="data", bytes=4 << 20), DiskHello(name="log", bytes=1 << 20)]
    state = begun(synced(), "b", 300, grown)
    assert [disk.phase for disk in state.disks] == ["stale", "stale", "new"]
    shrunk = [DISKS[0], DiskHello(name="data", bytes=DISKS[1].bytes // 2)]
    assert [disk.phase for disk in begun(synced(), "b", 300, shrunk).disks] == ["stale", "new"]
    never_synced = begun(begun(StreamState(), "a", 100), "b", 300)
    assert {disk.phase for disk in never_synced.disks} == {"new"}


def test_the_same_generation_goes_on() -> None:
    state = synced()
    assert begun(state, "a", 100) == state


def test_a_grown_disk_is_broken_in_the_middle_of_a_generation() -> None:
    grown = [DISKS[0], DiskHello(name="data", bytes=2 * DISKS[1].bytes)]
    state = begun(synced(), "a", 100, grown)
    assert [(disk.phase, disk.why) for disk in state.disks] == [("ordered", ""), ("broken", "grown")]
    assert state.disks[1].bytes == 2 * DISKS[1].bytes
    assert state.next_lsn == synced().next_lsn


@pytest.mark.parametrize("lsn", [99, 101, 0])
def test_a_hole_is_refused(lsn: int) -> None:
    with pytest.raises(BadFrame, match="the stream has a hole"):
        fold(synced(), header(FrameType.RECORDS, lsn, 8), None)


@pytest.mark.parametrize("lsn", [0, 99, 100])
def test_a_generation_begins_above_everything_seen(lsn: int) -> None:
    state = begun(synced(lsn=100), "b", 300)
    with pytest.raises(BadFrame, match="the stream has a hole"):
        fold(state, header(FrameType.RECORDS, lsn, 8), None)
    assert fold(state, header(FrameType.RECORDS, 101, 8), None).next_lsn == 109


@pytest.mark.parametrize("disk", [2, 65535])
def test_a_disk_that_is_not_there_is_refused(disk: int) -> None:
    state = synced()
    with pytest.raises(BadFrame, match="a disk that the scenario does not have"):
        fold(state, header(FrameType.RESYNC, 100, 512, disk), None)
    with pytest.raises(BadFrame, match="a disk that the scenario does not have"):
        fold(state, header(FrameType.GAP, 100), Gap(disk=disk, reason="x", count=1))
    with pytest.raises(BadFrame, match="a disk that the scenario does not have"):
        fold(state, header(FrameType.MARK, 100), Mark(epoch=2, disks=[0, disk], method="full"))


def test_sync_data_outside_a_sync_is_refused() -> None:
    with pytest.raises(BadFrame, match="sync data outside a sync"):
        fold(synced(), header(FrameType.RESYNC, 100, 512), None)


def test_a_redo_does_not_question_the_place() -> None:
    assert fold(synced(), header(FrameType.RECORDS, 40, 8), None, redo=True).next_lsn == 48


def test_disk_state_is_a_value() -> None:
    assert DiskState(name="a", bytes=1) == DiskState(name="a", bytes=1)
