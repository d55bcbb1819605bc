"""Is the master dead, and what follows from it? A pure decision.

Invariant: the action is FAILOVER only if
- the mode is "ha", the heartbeat (the master's own vote) has been silent for at least `lost_after`,
- at least one check is configured, *every* check was put after the last heartbeat and failed, and that so often, one
  round after the other, as `watch.rounds` says,
- where observers are configured, a majority of all of them and the appliance sees it dead (votes.py),
- the image is consistent, `watch.calm` has passed since the last failover ended,
- the master can be kept from serving on: a fence or a lease is configured,
- and nobody has switched it off (`rha pause`).

A lost link alone never moves a service: that would make two writers out of a pulled cable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rha.scenario import Link, Watch
from rha.units import show_seconds
from rha.watch import votes
from rha.watch.base import Result
from rha.watch.votes import Opinion, Vote, opinion_of

WATCH = Watch()


class State(StrEnum):
    """What the appliance believes of the master."""

    WAITING = "waiting"  # never heard from
    ALIVE = "alive"
    SERVICE_DOWN = "service-down"  # heard, but a check fails
    SUSPECT = "suspect"  # no heartbeat, checks not finished
    LINK_LOST = "link-lost"  # no heartbeat, but a check answers
    DISPUTED = "disputed"  # no heartbeat, every check failed here, but too few others see it so
    UNWATCHED = "unwatched"  # no heartbeat, and no check to ask
    DEAD = "dead"  # no heartbeat, every check failed
    REPLACED = "replaced"  # a substitute serves or is being made


class Action(StrEnum):
    NONE = "none"
    ALARM = "alarm"
    FAILOVER = "failover"


@dataclass(frozen=True)
class Round:
    """One asking of all checks, here and by all observers. `age`: seconds since it began. `same`: how many rounds, one
    after the other and this one included, have said the same since the last heartbeat. `took`: seconds that it lasted;
    a dead host lets every attempt run into its time limit, so that may be longer than `lost_after`."""

    age: float
    results: tuple[Result, ...]
    votes: tuple[Vote, ...] = ()
    same: int = 1
    took: float = 0.0

    @property
    def since_end(self) -> float:
        """Seconds since the last answer, or since the last attempt that got none: how old its evidence is."""
        return self.age - self.took


@dataclass(frozen=True)
class Observation:
    """What is known of one scenario at one moment. Ages in seconds, by a clock that does not jump.

    `heartbeat_age`: since the last frame from the master or, after a restart of the appliance, since that restart;
    None: the master has never connected. `checks`, `observers`: how many there are to ask; `round`: the last finished
    round; None: none yet. `why_inconsistent` is valid iff not `consistent`. `why_not_fenced`: nothing could keep the
    master from serving on; None: something could. `calm_left`: seconds of `watch.calm`. `told`: checks that the master
    itself answers for, with its heartbeats. `paused`: who has switched acting by itself off, and why; empty: nobody.
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
    watch: Watch = WATCH
    observers: int = 0
    why_not_fenced: str | None = None
    calm_left: float = 0.0
    told: tuple[str, ...] = ()
    paused: str = ""


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
        return _judge_heard(seen, seen.heartbeat_age)
    silent = f"no sign of life for {show_seconds(seen.heartbeat_age)} (limit {show_seconds(seen.link.lost_after)})"
    if not seen.checks:
        return Verdict(
            State.UNWATCHED,
            Action.ALARM,
            f"{silent}; no check is configured, so a dead master and a lost link look the same: {_a_person(seen)}",
        )
    if not _is_whole(seen, seen.round) or seen.round is None or seen.round.age > seen.heartbeat_age:
        return Verdict(State.SUSPECT, Action.NONE, f"{silent}; asking {_asked(seen)}", ask=True)
    return _judge_round(seen, seen.round, silent)


def _judge_heard(seen: Observation, age: float) -> Verdict:
    """The master lives; do its services? That is for a person: a restart on the spot is better than a failover."""
    ask = bool(seen.checks) and (seen.round is None or seen.round.age >= seen.watch.every)
    down = list(seen.told)
    if _is_whole(seen, seen.round) and seen.round is not None:
        down += [result.sentence() for result in seen.round.results if not result.answered]
    heard = f"last sign of life {show_seconds(age)} ago"
    if down:
        return Verdict(State.SERVICE_DOWN, Action.ALARM, f"the master lives ({heard}), but {'; '.join(down)}", ask=ask)
    return Verdict(State.ALIVE, Action.NONE, heard, ask=ask)


def _is_whole(seen: Observation, round: Round | None) -> bool:
    """Has it asked what is configured now?"""
    return round is not None and (len(round.results), len(round.votes)) == (seen.checks, seen.observers)


def _judge_round(seen: Observation, round: Round, silent: str) -> Verdict:
    again = round.since_end >= seen.link.lost_after
    own, said = opinion_of(round.results)
    if own is Opinion.ALIVE:
        return Verdict(
            State.LINK_LOST,
            Action.ALARM,
            f"{silent}, but the master answers ({said}): replication link lost",
            ask=again,
        )
    dead = f"{silent} and {_count(seen.checks)} failed ({said})"
    disputed = votes.why_not_dead(own, round.votes)
    if disputed:
        return Verdict(State.DISPUTED, Action.ALARM, f"{dead}; {disputed}: {_a_person(seen)}", ask=again)
    if round.votes:
        agreed, _, voters = votes.count(own, round.votes)
        dead = f"{dead}; {agreed} of {voters} observers agree"
    return _judge_dead(seen, round, dead, again=again)


def _judge_dead(seen: Observation, round: Round, dead: str, *, again: bool) -> Verdict:
    why_not = _why_not_by_itself(seen)
    if why_not:
        return Verdict(State.DEAD, Action.ALARM, f"{dead}; {why_not}", ask=again)
    if again:  # the evidence is old: ask once more before acting on it
        return Verdict(
            State.SUSPECT, Action.NONE, f"{dead}, {show_seconds(round.since_end)} ago; asking again", ask=True
        )
    if round.same < seen.watch.rounds:
        told = f"{dead}; round {round.same} of {seen.watch.rounds}: asking again"
        return Verdict(State.SUSPECT, Action.NONE, told, ask=True)
    if seen.paused:
        return Verdict(State.DEAD, Action.ALARM, f"{dead}; would fail over now, but {seen.paused}", ask=again)
    return Verdict(State.DEAD, Action.FAILOVER, f'{dead}; mode is "ha": failing over')


def _why_not_by_itself(seen: Observation) -> str | None:
    """The reason why a dead master is a person's business, or None."""
    if seen.mode == "dr":
        return f'mode is "dr": {_a_person(seen)}'
    if seen.why_not_fenced:
        return f"no failover by itself, {seen.why_not_fenced}: {_a_person(seen)}"
    if not seen.consistent:
        return (
            f"no failover by itself, the image is not consistent: {seen.why_inconsistent} "
            f"(rha failover {seen.scenario} --force takes it as it is)"
        )
    if seen.calm_left > 0:
        return (
            f"no failover by itself for {show_seconds(seen.calm_left)} more, the last one has only just ended: "
            f"{_a_person(seen)}"
        )
    return None


def _a_person(seen: Observation) -> str:
    return f"a person decides (rha failover {seen.scenario})"


def _asked(seen: Observation) -> str:
    if not seen.observers:
        return _count(seen.checks)
    others = "1 observer" if seen.observers == 1 else f"{seen.observers} observers"
    return f"{_count(seen.checks)} and {others}"


def _count(checks: int) -> str:
    return "1 check" if checks == 1 else f"{checks} checks"
