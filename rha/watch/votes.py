"""Several observers, one answer. Pure.

An observer has one vote; the appliance is one of them. Who cannot be asked votes neither way, and still counts as one
of those whose majority is needed: so no two halves of a split network can both have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rha.watch.base import Result


class Opinion(StrEnum):
    DEAD = "dead"  # every check failed
    ALIVE = "alive"  # a check was answered
    UNKNOWN = "unknown"  # it could not be asked


@dataclass(frozen=True)
class Vote:
    """One observer's. `why` is its sentence."""

    observer: str
    opinion: Opinion
    why: str

    def sentence(self) -> str:
        return f"{self.observer}: {self.opinion} ({self.why})" if self.why else f"{self.observer}: {self.opinion}"


def opinion_of(results: Sequence[Result]) -> tuple[Opinion, str]:
    """What one observer's results say. Nothing asked is nothing known."""
    if not results:
        return Opinion.UNKNOWN, "it was asked nothing"
    answered = [result.sentence() for result in results if result.answered]
    if answered:
        return Opinion.ALIVE, "; ".join(answered)
    return Opinion.DEAD, "; ".join(result.sentence() for result in results)


def majority(voters: int) -> int:
    """Votes needed of so many voters."""
    return voters // 2 + 1


def count(own: Opinion, votes: Sequence[Vote]) -> tuple[int, int, int]:
    """How many say dead, how many are needed, how many voters there are."""
    voters = len(votes) + 1
    dead = sum(opinion is Opinion.DEAD for opinion in (own, *(vote.opinion for vote in votes)))
    return dead, majority(voters), voters


def why_not_dead(own: Opinion, votes: Sequence[Vote]) -> str | None:
    """The reason why the master is not held for dead, or None. The appliance never acts against its own eyes."""
    if own is not Opinion.DEAD:
        return f"the appliance itself: {own}"
    dead, needed, voters = count(own, votes)
    if dead >= needed:
        return None
    others = "; ".join(vote.sentence() for vote in votes if vote.opinion is not Opinion.DEAD)
    return f"{dead} of {voters} observers see it dead, {needed} are needed; {others}"
