"""Which limit holds when, and what is no time or day."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rha.scenario import Link, Rate, Window
from rha.schedule import DAYS, latest, limit_at, next_begin, why_no_clock, why_no_days

MONDAY = datetime(2024, 7, 1)
OFFICE = Window(begin="08:00", end="18:00", days="mon-fri", limit=Rate(20 << 20))
NIGHT = Window(begin="22:00", end="06:00", days="sat", limit=Rate(0))
LINK = Link(limit=Rate(50 << 20), schedule=[OFFICE, NIGHT])


def at(day: int, clock: str) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("day", "clock", "rate", "why"),
    [
        (0, "08:00", 20 << 20, "limited to 20 MiB/s (mon-fri 08:00-18:00)"),
        (4, "17:59", 20 << 20, "limited to 20 MiB/s (mon-fri 08:00-18:00)"),
        (0, "07:59", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
        (4, "18:00", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
        (5, "12:00", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
        (5, "21:59", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
        (5, "22:00", 0, "not limited (sat 22:00-06:00)"),
        (6, "05:59", 0, "not limited (sat 22:00-06:00)"),
        (6, "06:00", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
        (6, "22:00", 50 << 20, "limited to 50 MiB/s (outside the windows of the schedule)"),
    ],
)
def test_limit_and_its_sentence(day: int, clock: str, rate: int, why: str) -> None:
    assert limit_at(LINK, at(day, clock)) == (rate, why)


def test_without_a_schedule() -> None:
    assert limit_at(Link(), MONDAY) == (0, "not limited")
    assert limit_at(Link(limit=Rate(1 << 20)), MONDAY) == (1 << 20, "limited to 1 MiB/s")


def test_the_first_window_that_covers_the_moment_counts() -> None:
    lunch = Window(begin="12:00", end="13:00", limit=Rate(1 << 20))
    assert limit_at(Link(schedule=[lunch, OFFICE]), at(2, "12:30")).rate == 1 << 20
    assert limit_at(Link(schedule=[OFFICE, lunch]), at(2, "12:30")).rate == 20 << 20


@given(st.integers(0, 7 * 24 * 60 - 1))
def test_a_window_of_all_days_and_hours_covers_everything(minute: int) -> None:
    whole = Link(limit=Rate(1), schedule=[Window(begin="00:00", end="24:00", limit=Rate(2))])
    assert limit_at(whole, MONDAY + timedelta(minutes=minute)).rate == 2


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_days_go_over_the_end_of_the_week(first: int, last: int, day: int) -> None:
    link = Link(schedule=[Window(begin="00:00", end="24:00", days=f"{DAYS[first]}-{DAYS[last]}", limit=Rate(7))])
    inside = (day - first) % 7 <= (last - first) % 7
    assert (limit_at(link, at(day, "12:00")).rate == 7) is inside


@pytest.mark.parametrize("text", ["8:00", "24:01", "25:00", "12:60", "noon", "", "12:00:00", "-1:00"])
def test_no_clock(text: str) -> None:
    assert why_no_clock(text)


@pytest.mark.parametrize("text", ["", "monday", "mon-", "mon--fri", "mon;tue", "Mon", "mon,,tue", "weekdays"])
def test_no_days(text: str) -> None:
    assert why_no_days(text)


@pytest.mark.parametrize("text", ["mon", "mon-fri", "sat,sun", "fri-mon, wed"])
def test_days(text: str) -> None:
    assert why_no_days(text) is None


def test_the_latest_window_and_the_next_one() -> None:
    wednesday = datetime(2026, 11, 25, 12, 0)
    assert latest("sun", "22:00", "04:00", wednesday) == (
        datetime(2026, 11, 22, 22, 0),
        datetime(2026, 11, 23, 4, 0),
    )
    assert latest("mon-sun", "00:00", "24:00", wednesday).begin == datetime(2026, 11, 25)
    assert latest("wed", "12:00", "13:00", wednesday).begin == wednesday
    assert latest("wed", "12:01", "13:00", wednesday).begin == datetime(2026, 11, 18, 12, 1)
    assert next_begin("wed", "12:00", wednesday) == datetime(2026, 12, 2, 12, 0)
    assert next_begin("thu,sun", "02:00", wednesday) == datetime(2026, 11, 26, 2, 0)
