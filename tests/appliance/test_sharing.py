"""Shares of one appliance: windows, and turns by who was served least."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.appliance import sharing
from rha.appliance.sharing import ACTIVE_SECONDS, POOL_BYTES, Pool, Turns, chosen, window_of
from rha.wire.credit import LEAST_WINDOW_BYTES, WINDOW_BYTES


@given(st.integers(0, 500))
def test_windows_share_the_pool(active: int) -> None:
    each = window_of(active)
    assert LEAST_WINDOW_BYTES <= each <= WINDOW_BYTES
    assert each * active <= POOL_BYTES or each == LEAST_WINDOW_BYTES
    assert window_of(active + 1) <= each


def test_only_who_sends_is_counted() -> None:
    pool = Pool()
    assert pool.window("a", False, 0.0) == LEAST_WINDOW_BYTES
    assert pool.window("a", True, 0.0) == WINDOW_BYTES
    for number in range(7):
        pool.window(number, True, 0.5)
    assert pool.window("a", False, 0.5) == POOL_BYTES // 8
    pool.leave(0)
    assert pool.window("a", False, 0.5) == POOL_BYTES // 7
    assert pool.window("a", True, 0.6 + ACTIVE_SECONDS) == WINDOW_BYTES, "the others have fallen silent"


def test_who_was_served_least_goes_first() -> None:
    assert chosen(["a", "b", "c"], {"a": 5, "b": 3, "c": 4}) == "b"
    assert chosen(["b", "a"], {}) == "a"


class World:
    """Scenarios in a fixed order of arrival, one slot that the test holds."""

    def __init__(self) -> None:
        self.turns = Turns(1, patience_seconds=60)
        self.order: list[str] = []
        self._threads: list[threading.Thread] = []

    @contextmanager
    def held(self, name: str, size: int) -> Iterator[None]:
        with self.turns.turn(name):
            yield
            self.turns.serve(name, size)

    def arrive(self, name: str, size: int = 1) -> None:
        def act() -> None:
            with self.held(name, size):
                self.order.append(name)

        waiting = len(self.turns._waiting)
        self._threads.append(threading.Thread(target=act))
        self._threads[-1].start()
        while len(self.turns._waiting) == waiting:
            pass

    def finish(self) -> list[str]:
        for thread in self._threads:
            thread.join(60)
        return self.order


def test_a_flood_waits_for_those_who_had_little() -> None:
    world = World()
    with world.held("flood", 100):
        world.arrive("flood", 100)
        world.arrive("small")
        world.arrive("other")
    assert world.finish() == ["other", "small", "flood"]


def test_the_more_wait_the_less_is_done_at_a_time() -> None:
    world = World()
    with world.held("a", 1):
        assert world.turns.part_of(64, 4) == 64
        for name in "bcd":
            world.arrive(name)
        assert world.turns.part_of(64, 4) == 16
        assert world.turns.part_of(64, 20) == 20
        assert world.turns.part_of(3, 20) == 3
    world.finish()


def test_nobody_saves_up() -> None:
    """Who comes after a long time is served next, and then no more often than the others."""
    world = World()
    for _ in range(5):
        with world.held("busy", 100):
            pass
    with world.held("busy", 100):
        world.arrive("late", 100)
        world.arrive("busy", 100)
    assert world.finish() == ["late", "busy"]
    assert world.turns._served.get("late", 0) >= 500


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_what_is_remembered_is_bounded(names: list[str]) -> None:
    turns = Turns(2)
    for name in names:
        with turns.turn(name):
            turns.serve(name, 1)
    assert set(turns._served) <= set(names)
    assert not turns._inside
    assert not turns._waiting


def test_one_that_hangs_does_not_stop_the_others() -> None:
    turns = Turns(1, patience_seconds=0.05)
    with ExitStack() as stack:
        stack.enter_context(turns.turn("hangs"))
        stack.enter_context(turns.turn("goes on"))
        assert turns._inside == ["hangs", "goes on"]


def test_a_turn_ends_with_what_went_wrong() -> None:
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.turn("a"):
        raise ZeroDivisionError
    with turns.turn("b"):
        assert turns._inside == ["b"]
    assert sharing.APPLYING is not turns
