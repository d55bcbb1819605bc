"""The rule of the lease as a model: the real decisions, an etcd that counts by another clock, and everything that may
stop for a while. Two must never serve at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rha.fence import terms
from rha.fence.terms import Move, Next, Seen, next_move

STEP = 0.05
TTL, STOP = 10.0, 3.0
SEEN = Seen(me="m", now=100.0, until=105.0, owner="m", asked=99.5, renew_every=1.0)


@dataclass
class Model:
    """One run. Times are true; the master's clock and etcd's run at `master_rate` and `etcd_rate` of it.

    `late`: what the master counts its lease from: the question (as it must be), or the answer (to see the test fail).
    """

    dice: random.Random
    master_rate: float
    etcd_rate: float
    late: bool = False
    slack: float = terms.SLACK_SECONDS
    time: float = 0.0
    owner: str = ""
    expires: float = 0.0
    permit: float = -1.0
    until: float | None = None
    known_owner: str | None = None
    asked: float = -99.0
    flying: tuple[float, float, Move] | None = None  # the answer's arrival, the question's time, what was asked
    granted_at: float | None = None
    address_until: float = -1.0  # when the kernel removes it at the latest
    unit_until: float = -1.0  # inf: it runs; else when it has stopped at the latest
    paused: dict[str, float] = field(default_factory=dict)
    both: int = 0

    @property
    def master_now(self) -> float:
        return self.time * self.master_rate

    def is_paused(self, who: str) -> bool:
        if self.paused.get(who, 0.0) <= self.time and self.dice.random() < 0.002:
            self.paused[who] = self.time + self.dice.uniform(0, 3 * TTL)
        return self.paused.get(who, 0.0) > self.time

    def step(self, wants: bool) -> None:
        self.time += STEP
        if self.owner == "m" and self.time >= self.expires:
            self.owner = ""
        if not self.is_paused("engine"):
            self._engine()
        self._sentry()
        if wants and not self.owner:
            self.owner = "a"
        if self.owner == "a" and (self.time < self.address_until or self.time < self.unit_until):
            self.both += 1

    def _engine(self) -> None:
        if self.flying:
            self._hear(*self.flying)
            return
        seen = Seen("m", self.master_now, self.until, self.known_owner, self.asked, 0.9)
        move = next_move(seen).move
        if move is Move.YIELD:
            self.permit, self.until = -1.0, None
        elif move is not Move.WAIT:
            self._send(move)

    def _send(self, move: Move) -> None:
        self.asked, self.granted_at = self.master_now, None
        there, back = (self.dice.choice([0.0, 0.1, 1.0, 4.0]) for _ in range(2))
        if self.dice.random() < 0.8 and not self.is_paused("link"):
            self.granted_at = self.time + there
            if self.owner in (
                "",
                "m",
            ):  # as if it were heard at once and counted from `there`: what etcd promises least
                self.owner, self.expires = "m", self.time + there + TTL / self.etcd_rate
        self.flying = (self.time + there + back, self.master_now, move)

    def _hear(self, arrives: float, asked: float, move: Move) -> None:
        if self.time < arrives:
            return
        self.flying = None
        if self.granted_at is None:
            return
        self.known_owner = self.owner
        if self.owner == "m":
            self.until = terms.serve_until(self.master_now if self.late else asked, TTL, STOP)
            self.until += terms.SLACK_SECONDS - self.slack
            self.permit = self.until

    def _sentry(self) -> None:
        """Units end only by it; addresses also when it stands still."""
        now = self.master_now
        if self.unit_until == float("inf") and now >= self.permit:
            # Found at most one look and one question to systemd later.
            self.unit_until = self.time + (0.1 + 1.0) + STOP
            self.address_until = min(self.address_until, self.time)
        elif now < self.permit and not self.is_paused("sentry"):
            self.unit_until = float("inf")
            lifetime = int(self.permit - now)
            if lifetime >= 1:
                self.address_until = self.time + lifetime / self.master_rate + 1.0


def run(seed: int, drift: float, **words: object) -> int:
    dice = random.Random(seed)
    model = Model(dice, 1 - drift / 2, 1 + drift / 2, **words)  # type: ignore[arg-type]
    wants_from = dice.uniform(0, 60)
    for _ in range(int(90 / STEP)):
        model.step(model.time > wants_from)
    return model.both


@settings(max_examples=1000)
@given(seed=st.integers(0, 1 << 32), drift=st.floats(0, terms.DRIFT * 0.99))
def test_two_never_serve_at_once(seed: int, drift: float) -> None:
    assert run(seed, drift) == 0


@pytest.mark.parametrize("broken", [{"late": True}, {"slack": -2.0}])
def test_the_model_sees_a_broken_rule(broken: dict[str, object]) -> None:
    assert any(run(seed, terms.DRIFT * 0.99, **broken) for seed in range(200))


def test_holds() -> None:
    assert next_move(SEEN) == Next(Move.WAIT, "holds the lease")


def test_renews_in_time() -> None:
    assert next_move(Seen("m", 100.6, 105.0, "m", 99.5, 1.0)).move is Move.RENEW
    ttl, stop = 15.0, 4.0
    assert terms.renew_seconds(ttl, stop) * (terms.RENEWALS + 1) <= terms.serving_seconds(ttl, stop)


def test_another_holds_it() -> None:
    found = next_move(Seen("m", 100.0, 105.0, "appliance a", 99.5, 1.0))
    assert found == Next(Move.YIELD, "appliance a holds the lease: this master serves no more")
    assert next_move(Seen("m", 100.0, None, "appliance a", 99.5, 1.0)).move is Move.WAIT
    assert next_move(Seen("m", 101.0, None, "appliance a", 99.5, 1.0)).move is Move.ACQUIRE


def test_etcd_gone() -> None:
    found = next_move(Seen("m", 100.0, 105.0, "m", 99.5, 1.0, failure="no answer"))
    assert found.why == "holds the lease for 5 s more, but it cannot be renewed (no answer)"
    found = next_move(Seen("m", 106.0, 105.0, "m", 99.5, 1.0, failure="no answer"))
    assert found == Next(Move.ACQUIRE, "the lease could not be renewed (no answer): serving has ended")


def test_too_short() -> None:
    assert terms.why_too_short(15.0, 4.0) is None
    assert "whole number" in str(terms.why_too_short(5.5, 0.5))
    assert "only 0 s would be left" in str(terms.why_too_short(6.0, 5.0))
