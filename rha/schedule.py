"""How much of the line the stream may take at a moment of the week. Pure.

Times are the master's local clock: who works from eight to six does so in summer, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
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
    begin, end, days = _minute(window.begin), _minute(window.end), set(_days(window.days))
    now, today = moment.hour * 60 + moment.minute, moment.weekday()
    if begin < end:
        return today in days and begin <= now < end
    return (today in days and now >= begin) or ((today - 1) % 7 in days and now < end)


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
