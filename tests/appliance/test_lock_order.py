"""The replica's lock and its history's are taken in one order: a report and a checkpoint never wait for each other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from one_replica import DISK_BYTES, Master, opened, wait_for

from rha.appliance.checkpoint import Checkpoint
from rha.appliance.history import History
from rha.appliance.stream import StreamState


@pytest.mark.parametrize("act", ["after_checkpoint", "begin_now", "take_back"])
def test_the_history_asks_for_the_streams_state_before_it_locks(tmp_path: Path, act: str) -> None:
    """What it asks takes the replica's lock, which a report holds while it looks at the history."""
    replica = opened(tmp_path)
    try:
        master = Master(replica)
        master.greet("a" * 32, 8)
        master.sync(b"1" * DISK_BYTES)
        history: History = replica._images.history
        wait_for(lambda: bool(history.intervals))
        state_at, could_look = history._state_at, list[bool]()

        def asked(saved: Checkpoint) -> StreamState:
            looking = threading.Thread(target=lambda: history.intervals, daemon=True)
            looking.start()
            looking.join(10)
            could_look.append(not looking.is_alive())
            return state_at(saved)

        history._state_at = asked
        saved = replica._images.applied
        if act == "take_back":
            history.take_back(saved.position + 1, saved)
        else:
            getattr(history, act)(saved)
        assert could_look
        assert all(could_look)
    finally:
        replica.close()
