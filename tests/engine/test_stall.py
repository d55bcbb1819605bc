"""A link that is up while nothing is acknowledged is an alarm on the master."""

from __future__ import annotations

from rha.engine.stall import STALL_SECONDS, Stall


def test_it_is_said_when_nothing_moves() -> None:
    stall = Stall()
    assert stall.look(4096, 8192, 100.0) == ""
    assert stall.look(4096, 9000, 100.0 + STALL_SECONDS - 1) == ""
    said = stall.look(4096, 4096 + (3 << 20), 100.0 + STALL_SECONDS + 1)
    assert said == "the appliance has acknowledged nothing for 21 s, 3 MiB wait: rha status there"


def test_whatever_moves_or_waits_for_nothing_is_no_stall() -> None:
    stall, late = Stall(), 100.0 + 2 * STALL_SECONDS
    stall.look(4096, 8192, 100.0)
    assert stall.look(4608, 8192, late) == ""
    assert stall.look(4608, 4608, late + STALL_SECONDS) == ""
    assert stall.look(4608, 8192, late + STALL_SECONDS + 1) == ""  # quiet until now


def test_without_a_link_or_in_a_sync_the_time_begins_anew() -> None:
    stall = Stall()
    stall.look(4096, 8192, 100.0)
    assert stall.look(None, 8192, 200.0) == ""
    assert stall.look(4096, 8192, 200.0 + STALL_SECONDS) == ""
