"""The status view on made-up reports: no daemon, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from rha.report import DiskReport, Point, Report, ReturnReport, Sync, Tested, VmReport, Window
from rha.statusview import STALE_SECONDS, Heard, judge, render, show_return, worst

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


def disk(**changes: Any) -> DiskReport:
    fields = {
        "name": "root",
        "device": "/dev/vda",
        "bytes": 20 << 30,
        "state": "write-order",
        "why": "every write is in the stream",
        "since": NOW - 60,
    }
    return DiskReport(**{**fields, **changes})


def engine(**changes: Any) -> Report:
    fields = {
        "role": "engine",
        "scenario": "web1",
        "mode": "ha",
        "time": NOW - 1,
        "health": "ok",
        "state": "replicating",
        "why": "all disks are in write order",
        "disks": [disk()],
        "lag_bytes": 1536,
        "lag_seconds": 0.25,
        "consistent": Point(lsn=81920, time=NOW - 0.5),
        "records": 12,
        "payload_bytes": 49152,
        "ring_bytes": 64 << 20,
        "ring_used_bytes": 16 << 20,
        "peer": "backup.example:7420",
        "connected": True,
    }
    return Report(**{**fields, **changes})


HEALTHY = """\
web1 engine (ha)  OK  replicating
  why         all disks are in write order
  lag         1.5 KiB, 0.25 s
  peer        backup.example:7420 (connected)
  ring        25 % of 64 MiB; 12 records, 48 KiB
  consistent  LSN 81920, 2027-01-15 07:59:59 UTC, 0.5 s ago
  disk        root  /dev/vda  20 GiB  write-order: every write is in the stream"""

SYNCING = """\
web1 engine (ha)  WARNING  syncing
  why         first sync
  lag         unknown, 2 s
  peer        nobody (not connected)
  ring        25 % of 64 MiB; 12 records, 48 KiB
  consistent  no point yet
  disk        root  /dev/vda  20 GiB  catching-up: the ring was full
              to be sent again: 128 MiB
              sync (compare): 25.0 % of 20 GiB, sent 1 GiB, 100 MiB/s, remaining 2 min 34 s
              writes outside the stream: read-error 1, ring-full 3
              left write order: ring-full 1 (rha history)
  alarm       appliance not reachable for 2 min"""

SERVING = """\
web1 appliance (ha)  OK  serving
  why         the substitute serves
  lag         0 B, 0 s
  peer        nobody (not connected)
  consistent  LSN 81920, 2027-01-15 07:59:59 UTC, 0.5 s ago
  vm          rha-web1 running, tcg, RPO 0.4 s, RTO 38 s"""

MISSING = """\
web1 engine  UNKNOWN  missing
  why         no daemon answers (refused)"""

STALE = """\
web1 engine (ha)  UNKNOWN  unknown
  why         the report is 11 s old; then it was replicating: all disks are in write order
  consistent  LSN 81920, 2027-01-15 07:59:59 UTC, 0.5 s ago
  disk        root  /dev/vda  20 GiB  unknown: last known: write-order"""


def syncing() -> Report:
    sync = Sync(
        method="compare",
        done_bytes=5 << 30,
        total_bytes=20 << 30,
        sent_bytes=1 << 30,
        rate_bytes=100 << 20,
        remaining_seconds=154,
    )
    broken = disk(
        state="catching-up",
        why="the ring was full",
        dirty_bytes=128 << 20,
        losses={"ring-full": 3, "read-error": 1},
        left_order={"ring-full": 1},
        sync=sync,
    )
    return engine(
        health="warning",
        state="syncing",
        why="first sync",
        disks=[broken],
        lag_bytes=None,
        lag_seconds=2,
        consistent=None,
        peer="",
        connected=False,
        alarms=["appliance not reachable for 2 min"],
    )


def serving() -> Report:
    vm = VmReport(domain="rha-web1", state="running", accelerator="tcg", rpo_seconds=0.4, rto_seconds=38)
    return engine(
        role="appliance",
        state="serving",
        why="the substitute serves",
        disks=[],
        lag_bytes=0,
        lag_seconds=0,
        ring_bytes=0,
        peer="",
        connected=False,
        vm=vm,
    )


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (Heard("engine-web1", [engine()]), HEALTHY),
        (Heard("engine-web1", [syncing()]), SYNCING),
        (Heard("appliance", [serving()]), SERVING),
        (Heard("engine-web1", [], "no daemon answers (refused)"), MISSING),
        (Heard("engine-web1", [engine(time=NOW - 11)]), STALE),
    ],
    ids=["healthy", "syncing", "serving", "missing", "stale"],
)
def test_golden(heard: Heard, text: str) -> None:
    assert render(judge([heard], NOW), NOW) == text


@pytest.mark.parametrize("age", [STALE_SECONDS + 0.1, 3600.0, -STALE_SECONDS - 0.1])
def test_stale_report_claims_nothing(age: float) -> None:
    (judged,) = judge([Heard("engine-web1", [engine(time=NOW - age)])], NOW)
    assert (judged.health, judged.state, judged.lag_bytes, judged.lag_seconds) == ("unknown", "unknown", None, None)
    assert [one.state for one in judged.disks] == ["unknown"]


@pytest.mark.parametrize("age", [0.0, STALE_SECONDS, -STALE_SECONDS])
def test_fresh_report_stays_as_it_is(age: float) -> None:
    report = engine(time=NOW - age)
    assert judge([Heard("engine-web1", [report])], NOW) == [report]


def test_scenarios_together_engine_first() -> None:
    heard = [
        Heard("appliance", [engine(role="appliance"), engine(role="appliance", scenario="db")]),
        Heard("engine-web1", [engine()]),
    ]
    assert [(one.scenario, one.role) for one in judge(heard, NOW)] == [
        ("db", "appliance"),
        ("web1", "engine"),
        ("web1", "appliance"),
    ]


def test_colour_only_repeats_words() -> None:
    plain, coloured = (render([syncing()], NOW, colour=colour) for colour in (False, True))
    assert "\x1b[33mWARNING\x1b[0m" in coloured
    assert "\x1b[31mappliance not reachable" in coloured
    for code in ("\x1b[33m", "\x1b[31m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_nothing_there() -> None:
    assert render([], NOW) == "No rha daemon runs on this host."


def test_sync_of_an_empty_disk_does_not_divide_by_zero() -> None:
    sync = Sync(method="full", done_bytes=0, total_bytes=0, sent_bytes=0, rate_bytes=0, remaining_seconds=None)
    text = render([engine(disks=[disk(sync=sync)])], NOW)
    assert "sync (full): 100.0 % of 0 B, sent 0 B, 0 B/s, remaining unknown" in text


@pytest.mark.parametrize(
    ("oldest", "reach"),
    [
        (Point(lsn=8, time=NOW - 90), "every write of the last 1 min 30 s"),
        (Point(lsn=8, time=0), "every write from LSN 8 on, which has no time"),
    ],
)
def test_the_window_of_points(oldest: Point, reach: str) -> None:
    window = Window(oldest=oldest, bytes=1 << 20, most_bytes=1 << 30, wanted_seconds=3600)
    assert f"  points      {reach}; 1 MiB of 1 GiB\n" in render([engine(window=window)], NOW)


def test_a_point_without_a_time() -> None:
    """A synced disk to which nothing was ever written."""
    assert "  consistent  LSN 8, no time known\n" in render([engine(consistent=Point(lsn=8, time=0))], NOW)


def test_worst() -> None:
    reports = [engine(health=health) for health in ("ok", "warning", "unknown", "alarm")]
    assert [worst(reports[:count]) for count in range(5)] == ["unknown", "ok", "warning", "unknown", "alarm"]


@pytest.mark.parametrize(
    ("tested", "line"),
    [
        (Tested(next=NOW + 3600), "never tested; next 2027-01-15 09:00 UTC"),
        (Tested(time=NOW - 7200, outcome="passed", why="2 of 2"), "passed 2 h 0 min ago: 2 of 2"),
        (Tested(time=NOW - 60, outcome="failed", why="x", running="y"), "failed 1 min 0 s ago: x; one runs now: y"),
    ],
)
def test_the_last_test_boot(tested: Tested, line: str) -> None:
    assert f"\n  test        {line}" in render([engine(test=tested)], NOW)


@pytest.mark.parametrize(
    ("back", "text"),
    [
        (ReturnReport(state="offered", receiver="m:1"), "receiver m:1 offers its disks; rha switchback takes them"),
        (ReturnReport(state="returning", step="track"), "receiver not connected"),
        (
            ReturnReport(
                state="returning", step="catch-up", receiver="m:1", passes=1, compared_bytes=3 << 30,
                sent_bytes=1 << 30, done_bytes=1 << 20, total_bytes=4 << 20, rate_bytes=1 << 20, remaining_seconds=3,
            ),
            "receiver m:1; catch-up: 25.0 % of 4 MiB, 1 MiB/s, remaining 3 s; 1 passes, compared 3 GiB, sent 1 GiB",
        ),
    ],
)  # fmt: skip
def test_a_switchback(back: ReturnReport, text: str) -> None:
    assert show_return(back) == text
    assert f"switchback  {text}" in render([engine(role="appliance", back=back)], NOW)
