"""Is the master dead, and what follows from it? A pure decision.

Invariant: the action is FAILOVER only if the mode is "ha", the heartbeat has been silent for at least `lost_after`, at
least one check is configured, *every* check was put after the last heartbeat and failed, and the image is consistent.
A lost link alone never moves a service: that would make two writers out of a pulled cable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rha.scenario import Link
from rha.units import show_seconds
from rha.watch.base import Result


class State(StrEnum):
    """What the appliance believes of the master."""

    WAITING = "waiting"  # never heard from
    ALIVE = "alive"
    SUSPECT = "suspect"  # no heartbeat, checks not finished
    LINK_LOST = "link-lost"  # no heartbeat, but a check answers
    UNWATCHED = "unwatched"  # no heartbeat, and no check to ask
    DEAD = "dead"  # no heartbeat, every check failed
    REPLACED = "replaced"  # a substitute serves or is being made


class Action(StrEnum):
    NONE = "none"
    ALARM = "alarm"
    FAILOVER = "failover"


@dataclass(frozen=True)
class Round:
    """One asking of all checks. `age`: seconds since it began."""

    age: float
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Observation:
    """What is known of one scenario at one moment. Ages in seconds, by a clock that does not jump.

    `heartbeat_age`: since the last frame from the master or, after a restart of the appliance, since that restart;
    None: the master has never connected. `round`: the last finished round; None: none yet.
    `why_inconsistent` is valid iff not `consistent`.
    """

    scenario: str
    mode: Literal["dr", "ha"]
    role: Literal["replica", "substitute"]
    link: Link
    heartbeat_age: float | None
    checks: int
    round: Round | None
    consistent: bool
    why_inconsistent: str = ""


@dataclass(frozen=True)
class Verdict:
    """`why` is the sentence for log, status and tests. `ask`: begin a round of checks unless one is running."""

    state: State
    action: Action
    why: str
    ask: bool = False


def judge(seen: Observation) -> Verdict:
    """The verdict on one observation."""
    if seen.role == "substitute":
        return Verdict(State.REPLACED, Action.NONE, "a substitute VM stands for the master: it is not watched")
    if seen.heartbeat_age is None:
        return Verdict(State.WAITING, Action.NONE, "the master has never connected")
    if seen.heartbeat_age < seen.link.lost_after:
        return Verdict(State.ALIVE, Action.NONE, f"last sign of life {show_seconds(seen.heartbeat_age)} ago")
    silent = f"no sign of life for {show_seconds(seen.heartbeat_age)} (limit {show_seconds(seen.link.lost_after)})"
    if not seen.checks:
        return Verdict(
            State.UNWATCHED,
            Action.ALARM,
            f"{silent}; no check is configured, so a dead master and a lost link look the same: "
            f"a person decides (rha failover {seen.scenario})",
        )
    if seen.round is None or seen.round.age > seen.heartbeat_age or len(seen.round.results) != seen.checks:
        return Verdict(State.SUSPECT, Action.NONE, f"{silent}; asking {_count(seen.checks)}", ask=True)
    return _judge_round(seen, seen.round, silent)


def _judge_round(seen: Observation, round: Round, silent: str) -> Verdict:
    again = round.age >= seen.link.lost_after
    answered = [result for result in round.results if result.answered]
    if answered:
        said = "; ".join(result.sentence() for result in answered)
        return Verdict(
            State.LINK_LOST,
            Action.ALARM,
            f"{silent}, but the master answers ({said}): replication link lost",
            ask=again,
        )
    said = "; ".join(result.sentence() for result in round.results)
    dead = f"{silent} and {_count(seen.checks)} failed ({said})"
    if seen.mode == "dr":
        why = f'{dead}; mode is "dr": a person decides (rha failover {seen.scenario})'
        return Verdict(State.DEAD, Action.ALARM, why, ask=again)
    if not seen.consistent:
        why = (
            f"{dead}; no failover by itself, the image is not consistent: {seen.why_inconsistent} "
            f"(rha failover {seen.scenario} --force takes it as it is)"
        )
        return Verdict(State.DEAD, Action.ALARM, why, ask=again)
    if again:  # the evidence is old: ask once more before acting on it
        return Verdict(State.SUSPECT, Action.NONE, f"{dead}, {show_seconds(round.age)} ago; asking again", ask=True)
    return Verdict(State.DEAD, Action.FAILOVER, f'{dead}; mode is "ha": failing over')


def _count(checks: int) -> str:
    return "1 check" if checks == 1 else f"{checks} checks"
