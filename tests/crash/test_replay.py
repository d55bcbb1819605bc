"""The straight replay against a made-up stream whose outcome is known, and against the product's own applier."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proof import journal, replay
from proof.applied import AppliedImages
from proof.journal import BadJournal
from proof.replay import Follower, Replay
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import DiskHello, End, Hello, Mark

sys.path.insert(0, str(Path(__file__).parents[1] / "appliance"))
from stream import DISK_BYTES, FLUSH, WRITE, Stream, record

SIZES = tuple(DISK_BYTES)


def written(folder: Path, whole: list[bytes]) -> Path:
    """A journal of these frames. Its segments are small, so that there are several."""
    place = folder / "recorded"
    with Journal.open(place, segment_bytes=1 << 20) as target:
        for frame in whole:
            target.append([frame])
        target.sync()
    return place


def files(folder: Path) -> list[Path]:
    return [folder / f"{number}.raw" for number in range(len(SIZES))]


def test_a_whole_stream(tmp_path: Path) -> None:
    stream = Stream(11, 80)
    straight = Replay(written(tmp_path, stream.frames), files(tmp_path), SIZES)
    straight.to_end()
    assert [image[:] for image in straight.images] == [bytes(one) for one in stream.images]


def test_a_follower_comes_to_the_same(tmp_path: Path) -> None:
    stream = Stream(12, 60)
    place = written(tmp_path, stream.frames)
    ends = [frame.next_position for frame in journal.frames(place)]
    follower = Follower(place, files(tmp_path), SIZES)
    for end in ends[7::13] + ends[-1:]:
        follower.to(end)
    assert [image[:] for image in follower.images] == [bytes(one) for one in stream.images]
    with pytest.raises(BadJournal, match="no frame ends"):
        Follower(place, [path.with_suffix(".2") for path in files(tmp_path)], SIZES).to(ends[3] + 1)


@pytest.mark.root
def test_the_appliers_images_are_the_replay_at_every_cut(tmp_path: Path) -> None:
    place = written(tmp_path, Stream(13, 60).frames)
    cuts = [c.end_lsn for f in journal.frames(place) if f.type == journal.RECORDS for c in journal.changes(f)][::17]
    straight = Replay(place, files(tmp_path), SIZES)
    (tmp_path / "applied").mkdir()
    with AppliedImages(tmp_path / "applied", place, SIZES) as images:
        for cut in cuts:
            straight.to(cut)
            images.to(cut)
            assert list(images.differences(straight.files)) == []
        straight.images[1][4096] ^= 1
        assert list(images.differences(straight.files)) == [(1, 0)], "a single wrong bit is seen"


def test_damage_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path, Stream(14, 30).frames)
    path = sorted(place.glob("*.journal"))[0]
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadJournal, match="checksum"):
        list(journal.frames(place))


def control(kind: FrameType, message: object, lsn: int) -> bytes:
    return frames.control(kind, message, lsn=lsn)


def hello(generation: str) -> Hello:
    disks = [DiskHello(name=f"d{i}", bytes=size) for i, size in enumerate(SIZES)]
    return Hello(protocol=1, version="", scenario={}, host="", generation=generation, first_lsn=0, disks=disks)


def run_at(lsn: int, *records: bytes) -> tuple[bytes, int]:
    run = b"".join(records)
    return frames.encode(FrameType.RECORDS, run, lsn=lsn) + run, lsn + len(run)


def test_cuts_lie_where_every_disk_is_in_order(tmp_path: Path) -> None:
    """Not in a sync, not before the LSN that its end names, not behind a gap."""
    one, two = record(WRITE, 0, 0, 512, b"a" * 512), record(FLUSH, 1, 0, 0)
    first, at = run_at(800, one)
    second, later = run_at(at, one, two, one)
    third, last = run_at(later, one)
    ends = at + len(one)  # the sync counts once the first record of `second` is applied
    place = written(
        tmp_path,
        [
            control(FrameType.HELLO, hello("a"), 800),
            control(FrameType.MARK, Mark(epoch=1, disks=[0, 1], method="full"), 800),
            first,
            control(FrameType.END, End(epoch=1, disks=[0, 1], lsn=ends), at),
            second,
            control(FrameType.GAP, {"disk": 1, "reason": "ring-full", "count": 1}, later),
            third,
        ],
    )
    found = replay.scan(place)
    assert found.cuts == (ends + len(two), later)
    assert (found.syncs, found.losses, found.generations) == (1, 1, 1)
    assert last > later
