"""One run at a time, and an orderly end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from demo.alone import alone, interrupt, on_signals
from rha.errors import StateError


def test_the_second_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with alone(tmp_path / "lock", "lab"):
        with pytest.raises(StateError, match="a lab is running already"), alone(tmp_path / "lock", "lab"):
            pass
    with alone(tmp_path / "lock", "lab"):
        pass


def test_a_signal_ends_it_by_the_way_of_ctrl_c() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        on_signals(interrupt)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
