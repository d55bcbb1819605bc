import errno
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.errors import StorageError
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType


def frame(number: int, size: int = 64) -> list[bytes]:
    payload = bytes([number % 256]) * size
    return [frames.encode(FrameType.RECORDS, payload, lsn=number, seq=number), payload]


def fill(journal: Journal, count: int, size: int = 64) -> list[int]:
    return [journal.append(frame(number, size)) for number in range(count)]


def numbers(journal: Journal, start: int | None = None, limit: int | None = None) -> list[int]:
    return [entry.header.seq for entry in journal.read(journal.first if start is None else start, limit)]


def last_file(folder: Path) -> Path:
    return max(folder.glob("*.journal"))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def test_append_read_reopen(tmp_path):
    with Journal.open(tmp_path / "j") as journal:
        ends = fill(journal, 5)
        entries = list(journal.read(0))
        assert [entry.next_position for entry in entries] == ends
        assert [bytes(entry.payload) for entry in entries] == [frame(n)[1] for n in range(5)]
        assert journal.durable == 0
        assert journal.sync() == journal.durable == ends[-1]
    with Journal.open(tmp_path / "j") as again:
        assert (again.end, again.durable, again.cut_bytes) == (ends[-1], ends[-1], 0)
        assert numbers(again, ends[1], ends[3]) == [2, 3]


def test_one_part_or_many(tmp_path):
    with Journal.open(tmp_path) as journal:
        whole = b"".join(frame(1))
        journal.append([whole])
        journal.append([whole[:72], memoryview(whole)[72:80], whole[80:]])
        assert numbers(journal) == [1, 1]


def test_parts_that_are_no_frame_are_refused(tmp_path):
    with Journal.open(tmp_path) as journal:
        header, payload = frame(1)
        with pytest.raises(ValueError, match="not one frame"):
            journal.append([header, payload[:-8]])
        with pytest.raises(frames.BadFrame):
            journal.append([payload, header])
        assert journal.end == 0


def test_segments_are_named_by_position_and_joined_when_read(tmp_path):
    with Journal.open(tmp_path, segment_bytes=400) as journal:
        fill(journal, 10)
        names = sorted(path.name for path in tmp_path.glob("*.journal"))
        assert names == [f"{start:016x}.journal" for start in range(0, 1360, 272)]
        assert numbers(journal) == list(range(10))
        assert numbers(journal, 272 + 136) == list(range(3, 10))
    with Journal.open(tmp_path, segment_bytes=400) as again:
        assert numbers(again) == list(range(10))


def test_trim_keeps_the_segment_that_holds_the_position(tmp_path):
    with Journal.open(tmp_path, segment_bytes=400) as journal:
        fill(journal, 10)
        assert journal.trim(600) == journal.first == 544
        assert numbers(journal) == list(range(4, 10))
        with pytest.raises(StorageError, match="does not hold position 0"):
            next(journal.read(0))
        assert journal.trim(1 << 40) == 1088
        journal.append(frame(10))
    with Journal.open(tmp_path) as again:
        assert again.first == 1088
        assert numbers(again) == [8, 9, 10]


def test_second_opener_is_refused(tmp_path):
    with Journal.open(tmp_path), pytest.raises(StorageError, match="two appliances on one store"):
        Journal.open(tmp_path)
    Journal.open(tmp_path).close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 5 * 136))
def test_torn_tail_is_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    with Journal.open(folder) as journal:
        fill(journal, 2)
        journal.sync()
        fill(journal, 5)
    path = last_file(folder)
    os.truncate(path, 7 * 136 - cut)
    whole = (7 * 136 - cut) // 136
    with Journal.open(folder) as again:
        assert again.end == whole * 136
        assert again.cut_bytes == 7 * 136 - cut - whole * 136
        assert path.stat().st_size == again.end
        again.append(frame(9))
        assert numbers(again)[-1] == 9


def test_unsynced_hole_before_a_sound_frame_is_cut_too(tmp_path):
    """A power cut may lose an earlier block of what was never synced and keep a later one."""
    with Journal.open(tmp_path) as journal:
        fill(journal, 2)
        journal.sync()
        fill(journal, 3)
    flip(last_file(tmp_path), 3 * 136 + 80)
    with Journal.open(tmp_path) as again:
        assert (again.end, again.cut_bytes) == (3 * 136, 2 * 136)


@pytest.mark.parametrize("offset", [0, 70, 72, 136 + 3, 4 * 136 + 100])
def test_damage_below_the_durable_mark_is_refused(tmp_path, offset):
    with Journal.open(tmp_path) as journal:
        fill(journal, 5)
        journal.sync()
    path = last_file(tmp_path)
    flip(path, offset)
    with pytest.raises(StorageError, match="journal damaged") as caught:
        Journal.open(tmp_path)
    assert f"{path}, offset {offset // 136 * 136}" in caught.value.cause
    assert caught.value.hint
    flip(path, offset)
    Journal.open(tmp_path).close()


def test_durable_bytes_that_are_gone_are_refused(tmp_path):
    with Journal.open(tmp_path) as journal:
        fill(journal, 5)
        journal.sync()
    os.truncate(last_file(tmp_path), 4 * 136)
    with pytest.raises(StorageError, match="136 bytes were durable after it"):
        Journal.open(tmp_path)


def test_missing_and_shortened_segments_are_refused(tmp_path):
    with Journal.open(tmp_path, segment_bytes=400) as journal:
        fill(journal, 10)
    paths = sorted(tmp_path.glob("*.journal"))
    os.truncate(paths[1], 136)
    with pytest.raises(StorageError, match="journal damaged"):
        Journal.open(tmp_path)
    paths[1].unlink()
    with pytest.raises(StorageError, match="journal damaged"):
        Journal.open(tmp_path)


@pytest.mark.parametrize("victim", ["durable", "segments"])
def test_mark_and_segments_belong_together(tmp_path, victim):
    with Journal.open(tmp_path) as journal:
        fill(journal, 2)
        journal.sync()
    (tmp_path / "durable" if victim == "durable" else last_file(tmp_path)).unlink()
    with pytest.raises(StorageError, match="journal damaged"):
        Journal.open(tmp_path)


def test_damage_in_an_older_segment_is_found_when_read(tmp_path):
    with Journal.open(tmp_path, segment_bytes=400) as journal:
        fill(journal, 6)
    flip(min(tmp_path.glob("*.journal")), 136 + 80)
    with Journal.open(tmp_path) as again:
        entries = again.read(0)
        assert next(entries).header.seq == 0
        with pytest.raises(StorageError, match="journal damaged"):
            next(entries)


def _append_to_a_full_disk(folder: Path, answer) -> None:
    """The file size limit makes the kernel write short and then refuse, as a full disk does."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal.open(folder) as journal:
        fill(journal, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 136 + 50, resource.RLIM_INFINITY))
        fill(journal, 1)
        try:
            journal.append(frame(3))
        except StorageError as error:
            answer.send((error.what, journal.end, last_file(folder).stat().st_size, numbers(journal)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        answer.send(journal.append(frame(4)))


def test_frame_that_does_not_fit_is_taken_away_again(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_append_to_a_full_disk, args=(tmp_path, theirs))
    child.start()
    what, end, size, seen = ours.recv()
    assert what == "the journal cannot be written"
    assert (end, size, seen) == (3 * 136, 3 * 136, [0, 1, 0])
    assert ours.recv() == 4 * 136
    child.join()
    assert child.exitcode == 0


def test_full_disk_is_named(tmp_path, monkeypatch):
    with Journal.open(tmp_path) as journal:

        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwritev", refuse)
        with pytest.raises(StorageError, match="disk is full") as caught:
            journal.append(frame(1))
        assert "df -h" in caught.value.hint


def test_nothing_is_taken_after_a_failed_sync(tmp_path, monkeypatch):
    with Journal.open(tmp_path) as journal:
        fill(journal, 1)

        def refuse(_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            with pytest.raises(StorageError, match="cannot be made durable"):
                journal.sync()
        for act in (journal.sync, lambda: journal.append(frame(2))):
            with pytest.raises(StorageError, match="cannot be made durable"):
                act()
        assert journal.durable == 0


def test_reader_syncer_and_trimmer_beside_the_appender(tmp_path):
    count, seen, failures = 3000, [], []
    with Journal.open(tmp_path, segment_bytes=20_000) as journal:
        done = threading.Event()

        def follow():
            position = 0
            try:
                while position < count * 136:
                    for entry in journal.read(position, journal.sync()):
                        seen.append(entry.header.seq)
                        position = entry.next_position
                    journal.trim(position)
            except StorageError as error:
                failures.append(error)
            done.set()

        threading.Thread(target=follow, daemon=True).start()
        fill(journal, count)
        assert done.wait(60)
        assert not failures
        assert seen == list(range(count))
