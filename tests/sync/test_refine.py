"""When to look closer: learnt from what looking closer gave."""

from __future__ import annotations

from rha.sync.refine import PROBE_EVERY, Refinement


def test_scattered_pages_are_worth_it() -> None:
    refinement = Refinement()
    for _ in range(50):
        assert refinement.is_worth()
        refinement.learn(65536, 4096)


def test_whole_blocks_are_not_but_a_few_are_asked_about() -> None:
    refinement = Refinement()
    refinement.learn(65536, 65536)
    assert [refinement.is_worth() for _ in range(3 * PROBE_EVERY)].count(True) == 3


def test_it_comes_back_when_the_disk_does() -> None:
    refinement = Refinement()
    for _ in range(100):
        refinement.learn(65536, 65536)
    asked = 0
    while not all(refinement.is_worth() for _ in range(3)):
        refinement.learn(65536, 4096)
        asked += 1
        assert asked < 12
