"""Every verdict with its sentence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.scenario import Link
from rha.watch.base import Result
from rha.watch.verdict import Action, Observation, Round, State, judge

DOWN = Result("tcp", "192.0.2.10:5432", False, 3, 3, 2.1, "connection refused")
UP = Result("ping", "192.0.2.10", True, 1, 3, 0.02)
SEEN = Observation(
    scenario="web", mode="ha", role="replica", link=Link(), heartbeat_age=7.0, checks=1, round=Round(2.2, (DOWN,)),
    consistent=True,
)  # fmt: skip
DEAD = (
    "no sign of life for 7 s (limit 5 s) and 1 check failed "
    "(tcp 192.0.2.10:5432: connection refused, 3 of 3 attempts in 2.1 s)"
)


def test_alive():
    verdict = judge(replace(SEEN, heartbeat_age=0.8))
    assert (verdict.state, verdict.action, verdict.why) == (State.ALIVE, Action.NONE, "last sign of life 0.8 s ago")


def test_never_connected():
    assert judge(replace(SEEN, heartbeat_age=None)).why == "the master has never connected"


def test_replaced():
    assert judge(replace(SEEN, role="substitute")).state == State.REPLACED


def test_suspect_until_the_checks_are_done():
    verdict = judge(replace(SEEN, round=None))
    assert (verdict.state, verdict.action, verdict.ask) == (State.SUSPECT, Action.NONE, True)
    assert verdict.why == "no sign of life for 7 s (limit 5 s); asking 1 check"


def test_checks_from_before_the_last_heartbeat_prove_nothing():
    assert judge(replace(SEEN, round=Round(7.5, (DOWN,)))).state == State.SUSPECT
    assert judge(replace(SEEN, round=Round(7.5, (UP,)))).state == State.SUSPECT


def test_dead_in_ha():
    verdict = judge(SEEN)
    assert (verdict.state, verdict.action) == (State.DEAD, Action.FAILOVER)
    assert verdict.why == DEAD + '; mode is "ha": failing over'


def test_dead_in_dr_waits_for_a_person():
    verdict = judge(replace(SEEN, mode="dr"))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert verdict.why == DEAD + '; mode is "dr": a person decides (rha failover web)'


def test_link_lost_when_the_master_answers():
    verdict = judge(replace(SEEN, checks=2, round=Round(2.2, (DOWN, UP))))
    assert (verdict.state, verdict.action) == (State.LINK_LOST, Action.ALARM)
    assert verdict.why == (
        "no sign of life for 7 s (limit 5 s), but the master answers (ping 192.0.2.10: answered in 0.02 s): "
        "replication link lost"
    )


def test_without_checks_a_person_decides():
    verdict = judge(replace(SEEN, checks=0, round=Round(1.0, ())))
    assert (verdict.state, verdict.action) == (State.UNWATCHED, Action.ALARM)
    assert "no check is configured" in verdict.why


def test_inconsistent_image_is_not_failed_over_to():
    verdict = judge(replace(SEEN, consistent=False, why_inconsistent="a sync is running"))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert "not consistent: a sync is running (rha failover web --force" in verdict.why


def test_old_evidence_is_asked_for_again():
    verdict = judge(replace(SEEN, heartbeat_age=60.0, round=Round(30.0, (DOWN,))))
    assert (verdict.action, verdict.ask) == (Action.NONE, True)


def test_a_lost_link_is_looked_at_again():
    assert judge(replace(SEEN, heartbeat_age=60.0, round=Round(30.0, (UP,)))).ask
    assert not judge(replace(SEEN, round=Round(1.0, (UP,)))).ask


@pytest.mark.parametrize("mode", ["ha", "dr"])
@given(
    age=st.none() | st.floats(0, 100), checks=st.integers(0, 2), consistent=st.booleans(),
    round=st.none() | st.builds(Round, st.floats(0, 100), st.lists(st.sampled_from([UP, DOWN]), max_size=2).map(tuple)),
)  # fmt: skip
def test_failover_only_on_full_evidence(mode, age, checks, consistent, round):
    seen = replace(SEEN, mode=mode, heartbeat_age=age, checks=checks, consistent=consistent, round=round)
    if judge(seen).action == Action.FAILOVER:
        assert mode == "ha"
        assert consistent
        assert age >= seen.link.lost_after
        assert checks
        assert round.age <= age
        assert round.results == (DOWN,) * checks
