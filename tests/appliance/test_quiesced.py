"""A quiesced bookmark on the appliance: named only when the stream has come to it, and it is a point."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for
from stream import WRITE, record

from rha.appliance import quiesced
from rha.appliance.replica import Replica
from rha.errors import NetworkError, RhaError, StateError
from rha.wire.frames import FrameType
from rha.wire.messages import Gap

BLOCK = b"\x11" * 4096


class Engine:
    """The master's answers: `answer` is what it says, `master` sends what it has written."""

    def __init__(self, folder: Path) -> None:
        self.replica = opened(folder)
        self.master = Master(self.replica)
        self.master.greet("a" * 32, 8)
        self.master.sync(b"\0" * DISK_BYTES)
        wait_for(lambda: bool(self.replica._images.history.intervals))
        self.answer: Any = None
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def order(self, scenario: str, verb: str, limit: float | None) -> Any:
        assert (scenario, verb, limit) == ("web1", "quiesce", None)
        self.asked += 1
        self.meanwhile()
        if isinstance(self.answer, RhaError):
            raise self.answer
        return self.answer

    def write(self) -> None:
        self.master.data(FrameType.RECORDS, record(WRITE, 0, 8, 4096, BLOCK))

    def at(self, lsn: int) -> None:
        self.answer = {"lsn": lsn, "time": 1e9, "by": ["/: frozen"], "seconds": 0.1}

    def names(self) -> list[str]:
        return [mark.name for mark in self.replica.points.list().bookmarks]

    def bookmark(self, name: str) -> Any:
        return quiesced.bookmark(self.replica, self.order, name, "test")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "store")
    yield engine
    engine.replica.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiesced, "STREAM_SECONDS", 20.0)


def test_it_waits_for_the_stream(engine: Engine) -> None:
    """Sent and not yet durable is not there."""
    lsn = engine.master.lsn + len(record(WRITE, 0, 8, 4096, BLOCK))
    engine.at(lsn)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(engine.bookmark("quiet")))
    thread.start()
    wait_for(lambda: engine.asked == 1)
    engine.write()
    time.sleep(0.2)  # nothing happens in it; a bookmark made by now would be the failure
    assert not found
    engine.master.settle()
    thread.join(30)
    (mark,) = found
    assert (mark.lsn, mark.time, mark.quiesced) == (lsn, 1e9, ["/: frozen"])
    assert engine.replica.points.list().bookmarks == [mark]
    engine.write()
    engine.master.settle()
    assert engine.replica.points.find("quiet").lsn == lsn


def test_the_stream_does_not_come(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiesced, "STREAM_SECONDS", 0.2)
    engine.at(engine.master.lsn + 8)
    with pytest.raises(NetworkError, match="there is no bookmark"):
        engine.bookmark("quiet")
    assert engine.names() == []


def test_the_disks_leave_order_before_it(engine: Engine) -> None:
    """A write was lost between the order and its position."""

    def meanwhile() -> None:
        engine.write()
        engine.master.control(FrameType.GAP, Gap(disk=0, reason="ring-full", count=1))
        engine.write()
        engine.master.settle()
        engine.at(engine.master.lsn)

    engine.meanwhile = meanwhile
    with pytest.raises(StateError, match="were no state of the master there"):
        engine.bookmark("quiet")
    assert engine.names() == []


def test_the_master_is_not_stopped_for_nothing(engine: Engine) -> None:
    engine.at(engine.master.lsn)
    engine.bookmark("quiet")
    with pytest.raises(StateError, match="exists already"):
        engine.bookmark("quiet")
    with pytest.raises(StateError, match="cannot be a bookmark's name"):
        engine.bookmark("Quiet?")
    assert engine.asked == 1


def test_its_refusal_is_told(engine: Engine) -> None:
    engine.answer = StateError("/boot/efi cannot be frozen", cause="its file system cannot be frozen")
    with pytest.raises(StateError, match="/boot/efi cannot be frozen"):
        engine.bookmark("quiet")
    assert engine.names() == []


@pytest.mark.parametrize("answer", [None, {}, {"lsn": 8, "time": 0.0, "by": []}, {"lsn": "8", "time": 0, "by": ["x"]}])
def test_an_answer_that_makes_no_sense(engine: Engine, answer: object) -> None:
    engine.answer = answer
    with pytest.raises(StateError, match="cannot be read"):
        engine.bookmark("quiet")
    assert engine.names() == []


def test_a_replica_without_points(tmp_path: Path) -> None:
    replica: Replica = opened(tmp_path / "store")
    try:
        with pytest.raises(StateError, match="there are no points"):
            quiesced.bookmark(replica, lambda *_, **__: pytest.fail("the master was asked"), "quiet", "test")
    finally:
        replica.close()
