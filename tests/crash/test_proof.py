"""A short proof: each oracle and a small storm, with seeds of its own. The long one is `make proof`."""

from __future__ import annotations

import pytest

from proof import crashes, oracle_a, oracle_c, storms
from proof.lab import MIB
from proof.oracle_a import Verdict
from proof.storms import Plan

pytestmark = pytest.mark.root


def assert_good(verdict: Verdict, cuts: int) -> None:
    assert verdict.failures == []
    assert verdict.lost_bytes == 0
    assert verdict.cuts == cuts
    assert verdict.writes > 20, "hardly anything was written: the cuts prove nothing"


def test_stamps_on_two_disks() -> None:
    assert_good(oracle_a.raw([16 * MIB, 16 * MIB], 1, 60, seed=21), 60)


def test_file_system() -> None:
    assert_good(oracle_a.file_system("ext4", 2, 12, seed=22), 12)


def test_postgresql_with_its_wal_on_another_disk() -> None:
    assert_good(oracle_c.postgresql(2, 2, 4, seed=24), 4)


def test_storm() -> None:
    plan = Plan("short", victims=1, kills=2, cuts=1, overflows=1, appliance_kills=3, ring="4MiB")
    tally = storms.run(plan, 25)
    assert tally.failures == []
    assert (tally.lost_bytes, tally.silent_gaps) == (0, 0)
    assert (tally.kills_engine, tally.overflows, tally.link_cuts) == (2, 1, 1)
    assert tally.kills_appliance == 3


def test_kills_of_the_appliance() -> None:
    tally = crashes.run(7, 1, 26, print)
    assert tally.failures == []
    assert (tally.lost_bytes, tally.silent_gaps) == (0, 0)
    assert tally.kills_appliance == 7
    assert tally.cuts == 8
    assert tally.looks >= 8
    assert tally.undone >= 8
    assert tally.redone_bytes > 0
    assert tally.points > 0
