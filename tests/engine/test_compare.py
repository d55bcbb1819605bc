"""Runs of equal answers, and answers that nobody asked for."""

from __future__ import annotations

import itertools
import mmap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.engine.compare import UNDER_WAY, Comparer, runs
from rha.engine.outbox import Outbox
from rha.errors import StateError
from rha.sync.plan import BLOCK_BYTES, Piece


@given(st.lists(st.sampled_from([0, 1]), max_size=40).map(bytes))
def test_runs_are_the_flags_again_and_never_touch(flags: bytes) -> None:
    found = list(runs(flags))
    assert b"".join(bytes([differs]) * count for _, count, differs in found) == flags
    assert [first for first, _, _ in found] == [sum(count for _, count, _ in found[:i]) for i in range(len(found))]
    assert all(one[2] != other[2] for one, other in itertools.pairwise(found))


def asked(comparer: Comparer[mmap.mmap], number: int = 0) -> Piece:
    piece = Piece(number * 2, 2, number * 2 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    buffer = mmap.mmap(-1, piece.length)
    comparer.ask(0, piece, buffer, memoryview(buffer))
    return piece


def test_only_a_fitting_answer_counts() -> None:
    comparer: Comparer[mmap.mmap] = Comparer(Outbox())
    piece = asked(comparer)
    comparer.answer(1, piece.offset, b"\0\1")  # another disk
    comparer.answer(0, piece.offset + 1, b"\0\1")  # another place
    comparer.answer(0, piece.offset, b"\0\1\0")  # another length
    assert list(comparer.answered()) == []
    comparer.answer(0, piece.offset, b"\0\1")
    comparer.answer(0, piece.offset, b"\1\1")  # asked once, answered twice
    assert [(one.piece, one.flags) for one in comparer.answered(all=True)] == [(piece, b"\0\1")]


def test_abort_wakes_whoever_waits() -> None:
    comparer: Comparer[mmap.mmap] = Comparer(Outbox())
    for number in range(UNDER_WAY):
        asked(comparer, number)
    failures: list[StateError] = []

    def ask_one_more() -> None:
        try:
            asked(comparer, UNDER_WAY)
        except StateError as error:
            failures.append(error)

    waiting = threading.Thread(target=ask_one_more)
    waiting.start()
    comparer.abort("the link is gone")
    waiting.join(10)
    assert [error.cause for error in failures] == ["the link is gone"]
    with pytest.raises(StateError, match="broken off"):
        list(comparer.answered(all=True))
