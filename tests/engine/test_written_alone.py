"""What an engine says of its disks to an appliance that may have replaced it. What stands in the ring is counted by
tests/lab/test_split_brain.py, with the kernel as judge."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from rha.engine.alone import _disk, _moment
from rha.engine.state import Cause, DiskView
from rha.wire.messages import MOST_SENTENCE, AloneDisk
from tests.engine.test_state import LOST, ORDERED, REBOOTED

WAITING = replace(ORDERED, is_ordered=False, need=None)  # in write order, and no appliance has said anything yet


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (WAITING, AloneDisk(name="root", state="ordered")),
        (
            replace(WAITING, dirty_bytes=65536),
            AloneDisk(name="root", state="marked", dirty_bytes=65536, why="a sync was broken off"),
        ),
        (
            replace(LOST, cause=Cause("ring-full", "3 writes from LSN 8 on", 5.0)),
            AloneDisk(
                name="root",
                state="marked",
                dirty_bytes=1 << 20,
                since=5.0,
                why="the ring was full (3 writes from LSN 8 on)",
            ),
        ),
        (
            REBOOTED,
            AloneDisk(name="root", state="unknown", why="the host was restarted (boot 1 then, 2 now)"),
        ),
        (
            replace(ORDERED, trouble=Cause("removed", "/dev/x: gone", 7.0)),
            AloneDisk(name="root", state="unknown", since=7.0, why="the device is gone (/dev/x: gone)"),
        ),
    ],
)
def test_a_disk_is_called_what_is_known_of_it(view: DiskView, said: AloneDisk) -> None:
    assert _disk(view) == said


def test_a_long_reason_is_no_reason_to_be_refused() -> None:
    said = _disk(replace(REBOOTED, cause=Cause("reboot", "x" * 5000)))
    assert len(said.why) == MOST_SENTENCE
    assert msgspec.json.decode(msgspec.json.encode(said), type=AloneDisk) == said


def test_no_time_is_none() -> None:
    assert _moment(0) is None
