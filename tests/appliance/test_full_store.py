"""The store's file system runs full at every step, with more and less room left: a clear refusal at most, what was
acknowledged stays, and with room again it goes on by itself to the same end."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from stream import WRITE, record

from rha.appliance import apply, history
from rha.appliance.replica import Replica
from rha.errors import RhaError, StorageError
from rha.wire.frames import FrameType
from rha.wire.messages import End, Mark

pytestmark = pytest.mark.root
STORE_BYTES = 64 << 20
PATIENCE = 20.0
ROOM = [0, 4096, 3 * 4096, 40_000, 200_000, 700_000, 3_000_000]


class Store:
    """A small file system of its own, and how much of it others take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, room: int) -> None:
        """Takes all but `room` bytes, to the last block."""
        with self._ballast.open("wb") as file:
            free = os.statvfs(self.folder)
            wanted = free.f_bavail * free.f_frsize - room
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, wanted))
            if room == 0:  # what a file's own bookkeeping left
                with contextlib.suppress(OSError):
                    while True:
                        os.write(file.fileno(), bytes(4096))
                        file.seek(0, os.SEEK_END)
            os.fsync(file.fileno())

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    image, where = tmp_path / "store.img", tmp_path / "store"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(STORE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "4096", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    yield Store(where)
    # A storage daemon's io_uring lets go of its files a little after its end.
    wait_for(lambda: subprocess.run(["umount", where], check=False).returncode == 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many intervals and checkpoints in little time."""
    monkeypatch.setattr(history, "INTERVAL_BYTES", 400_000)
    monkeypatch.setattr(apply, "CHECKPOINT_BYTES", 200_000)
    monkeypatch.setattr(apply, "BATCH_BYTES", 100_000)


class Stubborn(Master):
    """Says the same again after a refusal, from where the appliance says it is, as an engine does. `content`: the disk
    that it has described."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self.content = bytearray(DISK_BYTES)
        self.acknowledged = 0
        self._runs: list[tuple[int, bytes]] = []
        self._is_synced = False

    def connect(self) -> None:
        first = self._runs[0][0] if self._runs else 8
        welcome = self.greet("a" * 32, first)
        assert not self.acknowledged or welcome.durable_lsn >= self.acknowledged
        self.lsn = max(first, welcome.durable_lsn)
        if welcome.disks[0].need != "nothing":
            self._sync()
        for lsn, run in self._runs:
            if lsn >= welcome.durable_lsn:
                self.lsn = lsn
                self.data(FrameType.RECORDS, run)
        self.lsn = self._runs[-1][0] + len(self._runs[-1][1]) if self._runs else first
        self.commit()

    def _sync(self) -> None:
        self.control(FrameType.MARK, Mark(epoch=1, disks=[0], method="full"))
        for at in range(0, DISK_BYTES, 1 << 20):
            if any(self.content[at : at + (1 << 20)]):
                self.data(FrameType.RESYNC, bytes(self.content[at : at + (1 << 20)]), offset=at)
        self.control(FrameType.END, End(epoch=1, disks=[0], lsn=self.lsn))
        self.commit()

    def commit(self) -> None:
        self.acknowledged = max(self.acknowledged, self.replica.commit())

    def write(self, draw: random.Random, count: int) -> None:
        """Captured whatever the appliance does; then sent."""
        new = []
        lsn = self._runs[-1][0] + len(self._runs[-1][1]) if self._runs else self.lsn
        for _ in range(count):
            length = 512 * draw.choice([1, 8, 32])
            offset = 512 * draw.randrange((DISK_BYTES - length) // 512)
            data = draw.randbytes(length)
            self.content[offset : offset + length] = data
            run = record(WRITE, 0, offset // 512, length, data)
            new.append((lsn, run))
            lsn += len(run)
        self._runs += new
        for at, run in new:
            self.lsn = at
            self.data(FrameType.RECORDS, run)
            self.commit()

    def described(self, run: bytes) -> None:
        """Records that stand in `content` already: sent as one frame."""
        self._runs.append((self.lsn, run))
        self.data(FrameType.RECORDS, run)
        self.commit()


class Case:
    before, lsn = b"", 0  # for whoever has noted a point

    def __init__(self, store: Store, reserve: int = 0) -> None:
        self.store, self._reserve, self.replica = store, reserve, opened(store.folder, reserve=reserve)
        self.master = Stubborn(self.replica)
        self.draw = random.Random(5)

    def synced(self) -> None:
        self.master.content[: 2 << 20] = self.draw.randbytes(2 << 20)
        self.master.connect()
        assert self.replica.wait_applied(timeout=30)

    def written(self) -> None:
        self.synced()
        self.master.write(self.draw, 100)
        assert self.replica.wait_applied(timeout=30)
        wait_for(lambda: len(self.replica._images.history.intervals) > 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RhaError):
            self.replica.close()

    @property
    def is_closed(self) -> bool:
        return self.replica._journal._file < 0

    def reopen(self) -> None:
        if not self.is_closed:
            with contextlib.suppress(RhaError):
                self.replica.close()
        self.replica = opened(self.store.folder, reserve=self._reserve)
        self.master.replica = self.replica

    def check(self) -> None:
        """Everything said is in the images in the end, without anything but room and patience."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.replica.tend()
                self.master.connect()
                if self.replica.wait_applied(timeout=2) and not self.replica.failure():
                    break
            except RhaError:
                assert time.monotonic() < end, "it never came back"
                time.sleep(0.1)
        assert self.replica.why_not_consistent() is None
        assert self.replica.read_image(0, 0, DISK_BYTES) == self.master.content


def _reopened(case: Case) -> None:
    case.reopen()
    case.master.connect()


def _guarded(case: Case) -> None:
    """A new sync over a consistent image: it is guarded by an overlay, and merged."""
    case.master.control(FrameType.MARK, Mark(epoch=2, disks=[0], method="full"))
    case.master.data(FrameType.RESYNC, bytes(case.master.content[: 1 << 20]), offset=0)
    case.master.control(FrameType.END, End(epoch=2, disks=[0], lsn=case.master.lsn))
    case.master.commit()


STEPS: dict[str, tuple[Callable[[Case], None], Callable[[Case], None]]] = {
    "greet": (lambda case: None, Case.synced),
    "write": (Case.synced, lambda case: case.master.write(case.draw, 250)),
    "guard": (Case.written, _guarded),
    "reopen": (Case.written, _reopened),
    "bookmark": (Case.written, lambda case: case.replica.points.bookmark("before", "now", "test") and None),
}


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("step", STEPS)
def test_full_at_this_step(store: Store, step: str, room: int) -> None:
    before, act = STEPS[step]
    with Case(store) as case:
        before(case)
        store.leave(room)
        with contextlib.suppress(StorageError):
            act(case)
            case.replica.wait_applied(timeout=1)
        assert "said nothing" not in (case.replica.failure() or "")
        acknowledged = case.master.acknowledged
        store.free()
        if case.is_closed:
            case.reopen()
        case.check()
        assert case.replica.durable_lsn >= acknowledged
