"""What a lease allows, and when: pure, by one clock of one machine at a time.

Invariant (I6): who serves by a lease has asked etcd for it at a time `asked` of its own clock, and serves only before
`serve_until(asked, granted)`. Nobody else can get the lease before etcd has counted `granted` seconds since it *heard*
that question, which it cannot have heard before it was asked. So two serve at once only if one of these does not hold:

- **No two clocks are compared.** The master counts seconds since it asked, etcd counts seconds since it heard. What
  either clock shows, and who sets it, does not matter: `now` is CLOCK_BOOTTIME, which nobody can set and which goes on
  while the machine sleeps.
- **The two count equally fast, within DRIFT.** Oscillators of servers are good to 0.0001; NTP slews by at most 0.0005
  (kernel/time/ntp.c, MAXFREQ). 0.01 is twenty times that. etcd counts on its leader; a new leader begins to count anew,
  which only lengthens a lease (etcd, "Lease": a TTL is a minimum).
- **Stopping takes at most `stop_limit`, then SLACK.** An address goes within milliseconds; one that nobody removes,
  since engine and sentry are stopped (SIGSTOP) or starved, is removed by the kernel when its lifetime ends. The kernel
  looks for ended lifetimes at whole seconds, so up to a second late (net/ipv4/devinet.c, check_lifetime): SLACK. A unit
  that does not stop is killed within `stop_limit`; what even that does not end is `last_resort`'s.

A machine whose *clock* stands still, a paused or migrated VM, breaks the second: it serves on from where it was for at
most what was left when it was paused, and no program inside can know. There only a fence helps: configure both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from rha.units import show_seconds

DRIFT = 0.01
SLACK_SECONDS = 2.0
RENEWALS = 3  # questions that may get lost before serving ends
MIN_SERVING_SECONDS = 3.0
MIN_TTL_SECONDS = 5  # etcd's own least is 2 s, with its default election timeout


def now() -> float:
    """Seconds by the clock of all leases: goes on in suspend, cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def serving_seconds(granted: float, stop_limit: float) -> float:
    """For how long after the question the holder may serve."""
    return granted * (1 - DRIFT) - stop_limit - SLACK_SECONDS


def serve_until(asked: float, granted: float, stop_limit: float) -> float:
    """Until when the holder may serve; `asked`: before the question was sent, as `granted` in seconds."""
    return asked + serving_seconds(granted, stop_limit)


def renew_seconds(granted: float, stop_limit: float) -> float:
    """Between two questions."""
    return serving_seconds(granted, stop_limit) / (RENEWALS + 1)


def why_too_short(ttl: float, stop_limit: float) -> str | None:
    """The reason why such a lease could not be kept, or None."""
    if ttl < MIN_TTL_SECONDS or ttl != int(ttl):
        return f"{show_seconds(ttl)} is not a whole number of seconds, {MIN_TTL_SECONDS} or more"
    left = serving_seconds(ttl, stop_limit)
    if left >= MIN_SERVING_SECONDS:
        return None
    return (
        f"of {show_seconds(ttl)} only {show_seconds(max(0.0, left))} would be left to serve, after "
        f"{show_seconds(stop_limit)} for stopping and {show_seconds(SLACK_SECONDS)} for the kernel; make it longer"
    )


class Move(StrEnum):
    ACQUIRE = "acquire"
    RENEW = "renew"
    WAIT = "wait"
    YIELD = "yield"  # stop serving now, another has it


@dataclass(frozen=True)
class Seen:
    """What the master's engine knows of its lease. `until`: it may serve before that; None: it holds none. `owner`: as
    etcd last said; empty: nobody. `asked`: when it was last asked, whatever the answer."""

    me: str
    now: float
    until: float | None
    owner: str | None  # None: etcd has not answered since it was last held
    asked: float
    renew_every: float
    failure: str = ""


@dataclass(frozen=True)
class Next:
    """`why` is the sentence for log, status and tests."""

    move: Move
    why: str


def next_move(seen: Seen) -> Next:
    """What to do about the lease now.

    Nothing here ends serving in time: that is the sentry's, which needs no decision, only `until`.
    """
    if seen.owner not in (None, "", seen.me):
        if seen.until is not None:
            return Next(Move.YIELD, f"{seen.owner} holds the lease: this master serves no more")
        if seen.now - seen.asked < seen.renew_every:
            return Next(Move.WAIT, f"{seen.owner} holds the lease: this master does not serve")
        return Next(Move.ACQUIRE, f"{seen.owner} holds the lease: asking again")
    due = seen.now - seen.asked >= seen.renew_every
    if seen.until is None:
        return Next(Move.ACQUIRE if due else Move.WAIT, f"no lease{_told(seen)}: this master does not serve")
    left = seen.until - seen.now
    if left <= 0:
        return Next(
            Move.ACQUIRE if due else Move.WAIT, f"the lease could not be renewed{_told(seen)}: serving has ended"
        )
    move = Move.RENEW if due else Move.WAIT
    if seen.failure:
        return Next(move, f"holds the lease for {show_seconds(left)} more, but it cannot be renewed{_told(seen)}")
    return Next(move, "holds the lease")


def _told(seen: Seen) -> str:
    return f" ({seen.failure})" if seen.failure else ""
