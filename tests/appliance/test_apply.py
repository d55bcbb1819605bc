import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rha.appliance import apply, checkpoint
from rha.appliance.apply import Applier
from rha.appliance.checkpoint import Checkpoint
from rha.errors import StateError, StorageError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.journal.segment import Journal
from rha.wire import frames
from rha.wire.frames import FrameType

sys.path.insert(0, str(Path(__file__).parent))
from stream import DISK_BYTES, FLUSH, WRITE, Stream, record

KILLS = 24


class Store:
    """A journal, two images and their daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs = [ImageSpec(f"disk{n}", folder / f"disk{n}.qcow2", "qcow2") for n in range(2)]
        for spec, size in zip(self.specs, DISK_BYTES, strict=True):
            formats.create(spec.path, size)
        self.daemon = StorageDaemon(self.specs, folder / "run")
        self.daemon.start()
        self.journal = Journal.open(folder / "journal", segment_bytes=4 << 20)
        self.writers = [self.daemon.writer(spec.name) for spec in self.specs]

    def applier(self, **words) -> Applier:
        applier = Applier(self.journal, self.writers, self.folder / "checkpoint", **words)
        applier.start()
        return applier

    def append(self, *whole: bytes) -> int:
        for frame in whole:
            self.journal.append([frame])
        return self.journal.sync()

    def images(self) -> list[bytes]:
        return [self.daemon.reader(spec.name).read(0, size) for spec, size in zip(self.specs, DISK_BYTES, strict=True)]

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        self.journal.close()
        self.daemon.stop()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    yield store
    store.close()


def write_frame(lsn: int, sector: int, fill: int) -> bytes:
    run = record(WRITE, 0, sector, 512, bytes([fill]) * 512)
    return frames.encode(FrameType.RECORDS, run, lsn=lsn, time_ns=77) + run


def test_stream_becomes_the_image_of_straight_replay(store):
    stream, seen = Stream(1, 150), []
    applier = store.applier(on_frame=lambda entry: seen.append(entry.header.seq))
    applier.durable(store.append(*stream.frames))
    assert applier.wait_applied(store.journal.end, 30)
    assert store.images() == stream.images
    assert applier.applied_lsn == stream.lsn
    assert applier.applied_time_ns == 1000 + 149
    applier.stop()
    assert seen == [n for n, frame in enumerate(stream.frames) if frame[5] == FrameType.MARK]
    saved = checkpoint.load(store.folder / "checkpoint")
    assert saved == Checkpoint(position=store.journal.end, lsn=stream.lsn, time_ns=1149) == applier.saved


def test_nothing_beyond_the_durable_position_is_applied(store):
    applier = store.applier()
    first = store.append(write_frame(0, 0, 1))
    store.append(write_frame(544, 0, 2))
    applier.durable(first)
    assert applier.wait_applied(first, 30)
    assert not applier.wait_applied(first + 1, 0.2)
    assert store.images()[0][0] == 1
    applier.durable(store.journal.durable)
    assert applier.wait_applied(store.journal.end, 30)
    assert store.images()[0][0] == 2
    applier.stop()


def test_control_frame_is_shown_after_what_stands_before_it_and_before_what_follows(store):
    shown = []

    def look(entry):
        shown.append((entry.header.type, store.daemon.reader("disk0").read(0, 1)[0], applier.applied_lsn))

    applier = store.applier(on_frame=look)
    gap = frames.control(FrameType.GAP, {"disk": 0, "reason": "full", "count": 1}, lsn=544)
    applier.durable(store.append(write_frame(0, 0, 1), gap, write_frame(544, 0, 2)))
    assert applier.wait_applied(store.journal.end, 30)
    applier.stop()
    assert shown == [(FrameType.GAP, 1, 544)]


def test_idle_applier_writes_its_checkpoint(store):
    applier = store.applier()
    end = store.append(write_frame(0, 0, 1))
    applier.durable(end)
    deadline = time.monotonic() + 20
    while checkpoint.load(store.folder / "checkpoint").position < end:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert applier.is_healthy
    applier.stop()
    assert not applier.is_healthy


def test_journal_behind_the_checkpoint_is_trimmed(store):
    applier = store.applier(keep_bytes=5 << 20)
    applier.durable(store.append(*Stream(2, 120).frames))
    assert applier.wait_applied(store.journal.end, 30)
    applier.stop()
    first, end = store.journal.first, store.journal.end
    assert end - (9 << 20) < first <= end - (5 << 20)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (write_frame(544, 1 << 40, 1), "records refused"),
        (write_frame(0, 0, 1), "out of order"),
        (frames.encode(FrameType.RESYNC, bytes(512), disk=2, lsn=544) + bytes(512), "records refused"),
    ],
)
def test_bad_frame_stops_the_applier_for_all_to_see(store, bad, words):
    applier = store.applier()
    good_end = store.append(write_frame(0, 0, 1))
    applier.durable(good_end)
    assert applier.wait_applied(good_end, 30)
    applier.durable(store.append(bad))
    with pytest.raises(StorageError, match=words):
        applier.wait_applied(store.journal.end, 30)
    assert not applier.is_healthy
    assert words in str(applier.failure)
    for ask in (lambda: applier.durable(1), applier.stop):
        with pytest.raises(StorageError, match=words):
            ask()


def test_error_of_the_callback_is_the_appliers(store):
    def refuse(_):
        raise KeyError("catalogue")

    applier = store.applier(on_frame=refuse)
    applier.durable(store.append(frames.control(FrameType.GAP, {})))
    with pytest.raises(KeyError):
        applier.wait_applied(store.journal.end, 30)


def test_death_of_the_storage_daemon_is_seen(store):
    applier = store.applier()
    os.kill(store.daemon.pid, signal.SIGKILL)
    applier.durable(store.append(write_frame(0, 0, 1)))
    with pytest.raises(StorageError, match="image of disk disk0"):
        applier.wait_applied(store.journal.end, 30)
    with pytest.raises(StorageError, match="did not end well"):
        store.daemon.stop()
    assert checkpoint.load(store.folder / "checkpoint").position == 0


def test_waiting_for_a_stopped_applier_is_refused(store):
    applier = store.applier()
    threading.Timer(0.1, applier.stop).start()
    with pytest.raises(StateError, match="was stopped"):
        applier.wait_applied(1, 30)


def test_flush_only_run_moves_the_lsn(store):
    run = record(FLUSH, 0, 0, 0)
    applier = store.applier()
    applier.durable(store.append(frames.encode(FrameType.RECORDS, run, lsn=5000) + run))
    assert applier.wait_applied(store.journal.end, 30)
    assert applier.applied_lsn == 5000 + len(run)
    applier.stop()


def test_checkpoint_of_another_journal_is_refused(store):
    checkpoint.save(store.folder / "checkpoint", Checkpoint(position=12345))
    with pytest.raises(StorageError, match="do not belong together"):
        store.applier()


def test_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b'{"position": 12')
    with pytest.raises(StorageError, match="cannot be read"):
        checkpoint.load(tmp_path / "checkpoint")


def test_checkpoint_every_so_often_under_steady_work(store, monkeypatch):
    monkeypatch.setattr(apply, "CHECKPOINT_BYTES", 1)
    saved = []
    monkeypatch.setattr(apply.checkpoints, "save", lambda path, now: saved.append(now.position))
    monkeypatch.setattr(apply, "BATCH_BYTES", 1 << 16)
    applier = store.applier()
    applier.durable(store.append(*Stream(3, 40).frames))
    assert applier.wait_applied(store.journal.end, 30)
    applier.stop()
    assert len(saved) > 10
    assert saved == sorted(saved)


def _run_until(folder: Path, seed: int, count: int, kill_after: float | None) -> tuple[bool, list[int]]:
    """Runs the child, killed `kill_after` seconds after it is ready. Returns whether it came to its end by itself, and
    where it began: journal end, checkpoint, bytes cut."""
    words = [sys.executable, str(Path(__file__).parent / "replay_child.py"), str(folder), str(seed), str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        ready = child.stdout.readline().split()
        assert ready, child.stderr.read()
        if kill_after is not None:
            time.sleep(kill_after)
            child.kill()
        done = child.stdout.read() == "done\n"
        child.wait()
        assert done or kill_after is not None, child.stderr.read()
    return done, [int(word) for word in ready[1:]]


def test_killed_at_random_moments_it_redoes_to_the_same_image(tmp_path):
    seed, count = 7, 2500
    draw = random.Random()
    for n, size in enumerate(DISK_BYTES):
        formats.create(tmp_path / f"disk{n}.qcow2", size)
    begins, kills = [], 0
    for _ in range(KILLS):
        done, begin = _run_until(tmp_path, seed, count, draw.uniform(0, 0.12))
        begins.append(begin)
        kills += not done
    assert kills >= KILLS * 3 // 4, begins
    _run_until(tmp_path, seed, count, None)
    assert any(end > position for end, position, _ in begins), "no kill left anything to redo"
    assert len({position for _, position, _ in begins}) > 5, "no checkpoints between the kills"
    stream = Stream(seed, count)
    specs = [ImageSpec(f"disk{n}", tmp_path / f"disk{n}.qcow2", "qcow2") for n in range(2)]
    with StorageDaemon(specs, tmp_path / "run") as daemon:
        for spec, straight in zip(specs, stream.images, strict=True):
            assert daemon.reader(spec.name).read(0, len(straight)) == straight
    assert all(formats.check(spec.path).is_sound for spec in specs)
