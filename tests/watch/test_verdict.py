"""Every verdict with its sentence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.scenario import Link, Watch
from rha.watch.base import Result
from rha.watch.verdict import Action, Observation, Round, State, Verdict, judge
from rha.watch.votes import Opinion, Vote, majority

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
    verdict = judge(replace(SEEN, heartbeat_age=0.8, round=Round(2.2, (UP,))))
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


def test_paused_it_says_what_it_would_do_and_does_nothing():
    verdict = judge(replace(SEEN, paused="paused by eve since 2026-11-25 17:00:00 (disks)"))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert verdict.why == DEAD + "; would fail over now, but paused by eve since 2026-11-25 17:00:00 (disks)"
    assert judge(replace(SEEN, paused="paused by eve", mode="dr")).why.endswith("a person decides (rha failover web)")


def test_inconsistent_image_is_not_failed_over_to():
    verdict = judge(replace(SEEN, consistent=False, why_inconsistent="a sync is running"))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert "not consistent: a sync is running (rha failover web --force" in verdict.why


def test_old_evidence_is_asked_for_again():
    verdict = judge(replace(SEEN, heartbeat_age=60.0, round=Round(30.0, (DOWN,))))
    assert (verdict.action, verdict.ask) == (Action.NONE, True)


def test_a_round_that_lasts_longer_than_the_limit_is_evidence_all_the_same():
    """A host without power answers nothing: every attempt runs into its time limit, by default for 8 s in all."""
    slow = replace(SEEN, heartbeat_age=14.0, round=Round(8.5, (DOWN,), took=8.0))
    assert judge(slow).action == Action.FAILOVER
    assert judge(replace(slow, round=Round(13.5, (DOWN,), took=8.0))).why.endswith("5.5 s ago; asking again")


def test_a_lost_link_is_looked_at_again():
    assert judge(replace(SEEN, heartbeat_age=60.0, round=Round(30.0, (UP,)))).ask
    assert not judge(replace(SEEN, round=Round(1.0, (UP,)))).ask


def vote(name: str, opinion: Opinion) -> Vote:
    return Vote(name, opinion, f"{opinion} is what it sees")


DEAD_VOTE, ALIVE_VOTE, AWAY = (vote(name, opinion) for name, opinion in zip("abc", Opinion, strict=True))


def test_without_fence_or_lease_only_a_person_fails_over():
    verdict = judge(replace(SEEN, why_not_fenced="neither a [[fence]] nor a [lease] is configured"))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert verdict.why == (
        DEAD + "; no failover by itself, neither a [[fence]] nor a [lease] is configured: "
        "a person decides (rha failover web)"
    )


def test_observers_are_asked_with_the_checks():
    verdict = judge(replace(SEEN, observers=2))
    assert verdict == Verdict(
        State.SUSPECT, Action.NONE, "no sign of life for 7 s (limit 5 s); asking 1 check and 2 observers", ask=True
    )


def test_a_majority_agrees():
    verdict = judge(replace(SEEN, observers=2, round=Round(2.2, (DOWN,), (DEAD_VOTE, ALIVE_VOTE))))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.FAILOVER)
    assert verdict.why == DEAD + '; 2 of 3 observers agree; mode is "ha": failing over'


@pytest.mark.parametrize("others", [(AWAY,), (ALIVE_VOTE,), (AWAY, ALIVE_VOTE), (AWAY, AWAY)])
def test_one_observers_word_is_not_enough(others):
    verdict = judge(replace(SEEN, observers=len(others), round=Round(2.2, (DOWN,), others)))
    assert (verdict.state, verdict.action) == (State.DISPUTED, Action.ALARM)
    assert f"; 1 of {1 + len(others)} observers see it dead, 2 are needed; " in verdict.why
    assert all(one.sentence() in verdict.why for one in others)


def test_the_appliance_never_acts_against_its_own_eyes():
    verdict = judge(replace(SEEN, observers=2, round=Round(2.2, (UP,), (DEAD_VOTE, DEAD_VOTE))))
    assert (verdict.state, verdict.action) == (State.LINK_LOST, Action.ALARM)


def test_several_rounds_must_agree():
    seen = replace(SEEN, watch=Watch(rounds=3))
    verdict = judge(replace(seen, round=Round(2.2, (DOWN,), same=2)))
    assert (verdict.state, verdict.action, verdict.ask) == (State.SUSPECT, Action.NONE, True)
    assert verdict.why == DEAD + "; round 2 of 3: asking again"
    assert judge(replace(seen, round=Round(2.2, (DOWN,), same=3))).action == Action.FAILOVER


def test_calm_after_a_failover():
    verdict = judge(replace(SEEN, calm_left=300.0))
    assert (verdict.state, verdict.action) == (State.DEAD, Action.ALARM)
    assert "no failover by itself for 5 min 0 s more, the last one has only just ended" in verdict.why


def test_a_service_that_is_down_on_a_living_master():
    verdict = judge(replace(SEEN, heartbeat_age=0.8))
    assert (verdict.state, verdict.action) == (State.SERVICE_DOWN, Action.ALARM)
    assert verdict.why == (
        "the master lives (last sign of life 0.8 s ago), but "
        "tcp 192.0.2.10:5432: connection refused, 3 of 3 attempts in 2.1 s"
    )
    verdict = judge(replace(SEEN, heartbeat_age=0.8, round=None, told=("unit nginx.service: it is failed (failed)",)))
    assert verdict.why.endswith("but unit nginx.service: it is failed (failed)")


def test_a_living_master_is_asked_now_and_then():
    alive = replace(SEEN, heartbeat_age=0.8)
    assert judge(replace(alive, round=None)).ask
    assert not judge(replace(alive, round=Round(9.0, (UP,)))).ask
    assert judge(replace(alive, round=Round(10.0, (UP,)))).ask


VOTES = st.lists(st.sampled_from([DEAD_VOTE, ALIVE_VOTE, AWAY]), max_size=4).map(tuple)


@pytest.mark.parametrize("mode", ["ha", "dr"])
@given(
    age=st.none() | st.floats(0, 100), checks=st.integers(0, 2), consistent=st.booleans(), observers=st.integers(0, 4),
    fenced=st.sampled_from([None, "no fence"]), paused=st.sampled_from(["", "paused by eve"]),
    calm=st.sampled_from([0.0, 60.0]), rounds=st.integers(1, 3),
    round=st.none() | st.builds(
        Round, st.floats(0, 100), st.lists(st.sampled_from([UP, DOWN]), max_size=2).map(tuple), VOTES,
        st.integers(1, 3), st.floats(0, 100),
    ),
)  # fmt: skip
def test_failover_only_on_full_evidence(mode, age, checks, consistent, observers, fenced, paused, calm, rounds, round):
    seen = replace(
        SEEN, mode=mode, heartbeat_age=age, checks=checks, consistent=consistent, round=round, observers=observers,
        why_not_fenced=fenced, paused=paused, calm_left=calm, watch=Watch(rounds=rounds),
    )  # fmt: skip
    if judge(seen).action == Action.FAILOVER:
        assert mode == "ha"
        assert consistent
        assert age >= seen.link.lost_after
        assert checks
        assert round.age <= age
        assert round.age - round.took < seen.link.lost_after
        assert round.results == (DOWN,) * checks
        assert len(round.votes) == observers
        dead = 1 + sum(one.opinion == Opinion.DEAD for one in round.votes)
        assert 2 * dead > 1 + observers
        assert dead > 1 or not observers
        assert fenced is None
        assert not paused
        assert calm == 0
        assert round.same >= rounds


@given(VOTES, VOTES)
def test_two_halves_of_a_split_never_both_have_the_majority(one, other):
    """Each half sees its own dead, and the other half's voters not at all."""
    voters = 2 + len(one) + len(other)
    halves = [1 + sum(vote.opinion == Opinion.DEAD for vote in half) for half in (one, other)]
    assert not all(dead >= majority(voters) for dead in halves)
