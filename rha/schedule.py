"""Windows of the week: how much of the line the stream may take now; when a test is due. Pure.

Times are local clocks: who works from eight to six does so in summer, too. Which host's: the master's for its link, the
appliance's for tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import NamedTuple

from rha.scenario import Link, Window
from rha.units import show_bytes

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60


class Limit(NamedTuple):
    """Bytes per second, 0: none; and the sentence that says why."""

    rate: int
    why: str


def limit_at(link: Link, moment: datetime) -> Limit:
    """The limit at a local time: that of the first window which covers it, else the link's own."""
    for window in link.schedule:
        if _covers(window, moment):
            return Limit(int(window.limit), f"{_shown(window.limit)} ({window.days} {window.begin}-{window.end})")
    outside = " (outside the windows of the schedule)" if link.schedule else ""
    return Limit(int(link.limit), f"{_shown(link.limit)}{outside}")


def _shown(rate: int) -> str:
    return f"limited to {show_bytes(rate)}/s" if rate else "not limited"


def _covers(window: Window, moment: datetime) -> bool:
    return moment < latest(window.days, window.begin, window.end, moment).end


class Span(NamedTuple):
    """One window on the calendar, local times."""

    begin: datetime
    end: datetime


def latest(days: str, begin: str, end: str, moment: datetime) -> Span:
    """The window that covers a local time, else the last one before it. `end` before `begin`: over midnight."""
    wanted = set(_days(days))
    length = timedelta(minutes=(_minute(end) - _minute(begin)) % _DAY_MINUTES or _DAY_MINUTES)
    for back in range(8):
        day = datetime.combine(moment.date() - timedelta(days=back), time())
        start = day + timedelta(minutes=_minute(begin))
        if day.weekday() in wanted and start <= moment:
            return Span(start, start + length)
    raise AssertionError(f"a week without {days}")


def next_begin(days: str, begin: str, moment: datetime) -> datetime:
    """When the next window begins after a local time."""
    wanted = set(_days(days))
    for ahead in range(8):
        day = datetime.combine(moment.date() + timedelta(days=ahead), time())
        start = day + timedelta(minutes=_minute(begin))
        if day.weekday() in wanted and start > moment:
            return start
    raise AssertionError(f"a week without {days}")


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def _days(text: str) -> Iterator[int]:
    """Numbers of the days, Monday is 0; `fri-mon` goes over the week's end."""
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        yield from ((begin + i) % 7 for i in range((end - begin) % 7 + 1))


def why_no_clock(text: str) -> str | None:
    """What makes a text unusable as a time of day, or None."""
    if re.fullmatch(r"[0-2]\d:[0-5]\d", text) and _minute(text) <= _DAY_MINUTES:
        return None
    return f"{text!r} is no time of day; write for example 08:00 or 24:00"


def why_no_days(text: str) -> str | None:
    """What makes a text unusable as days of the week, or None."""
    day = "|".join(DAYS)
    if re.fullmatch(rf"({day})(-({day}))?(,\s*({day})(-({day}))?)*", text):
        return None
    return f"{text!r} are no days; write for example mon-fri or sat,sun"
