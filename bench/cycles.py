"""What stays behind of switches: fifty masters that are lost and come home, fifty that hand over and take back, all on
one appliance process. After some rounds of warming up, whatever there is more of at the end of a round is a leak.

Counted things are compared exactly (bench/census.py), after waiting a while for what ends by itself. Memory scatters:
it is the slope of a line over the rounds, with the range in which chance leaves it. What grows by design is named with
its slope: the history of switches, a line of some hundred bytes for each; the guest's console, of which libvirt's
virtlogd keeps so many megabytes; the window of points, which is cut when an interval of ten minutes is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from bench import census
from bench import figures as f
from bench.census import Census
from bench.circle import Circle
from bench.process import MIB, resident_bytes
from rha.switch import switches

ROUNDS, WARM_UP = 50, 6
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.2

Row = dict[str, object]


class Sample(NamedTuple):
    """At the end of a round. Bytes; seconds of the round."""

    appliance: int
    engine: int
    history: int
    windowed: int
    store: int
    seconds: float


class Found(NamedTuple):
    """`left`: what there was more of after the last round than before the first, in words; `before`: what there was."""

    samples: list[Sample]
    left: list[str]
    before: Census


def measure() -> list[Row]:
    """Two rows a kind of round, as tables.rows shows them. The images are compared with the disk at the end."""
    with ExitStack() as stack:
        circle = Circle(stack)
        circle.begin()
        ways = (("lost and home", circle.lost_and_home), ("handed over and back", circle.away_and_back))
        found = [row for name, act in ways for row in rows(name, rounds(circle, act))]
        circle.lab.assert_equal(circle.engine, [circle.disk])
    return found


def rounds(circle: Circle, act: Callable[[], object], count: int = ROUNDS, warm_up: int = WARM_UP) -> Found:
    """Some of warming up, then those that are looked at."""
    for _ in range(warm_up):
        act()
    before, samples, left = settled(circle), list[Sample](), list[str]()
    for _ in range(count):
        begun = time.monotonic()
        act()
        seconds = time.monotonic() - begun
        left = left_behind(circle, before)
        samples.append(sample(circle, seconds))
    return Found(samples, left, before)


def settled(circle: Circle) -> Census:
    """What is there when nothing changes any more."""
    until, before = time.monotonic() + SETTLE_SECONDS, circle.look()
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        now = circle.look()
        if now == before:
            break
        before = now
    return before


def left_behind(circle: Circle, before: Census) -> list[str]:
    """What there is more of, and does not go by itself."""
    until = time.monotonic() + SETTLE_SECONDS
    while (found := census.more(before, circle.look())) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return found


def sample(circle: Circle, seconds: float) -> Sample:
    folder = circle.store / circle.engine.name
    windowed = sum(census.bytes_below(folder / part) for part in census.WINDOWED)
    pids = circle.pids()
    return Sample(
        appliance=resident_bytes(pids["appliance"]),
        engine=resident_bytes(pids["engine"]),
        history=(folder / switches.FILE).stat().st_size,
        windowed=windowed,
        store=census.bytes_below(folder) - windowed,
        seconds=seconds,
    )


def rows(name: str, found: Found) -> list[Row]:
    samples = found.samples
    return [
        {
            "name": f"{len(samples)} rounds, {name}",
            "load": f.load(),
            "seconds_a_round": f.spread([one.seconds for one in samples], 1),
            "there": ", ".join(f"{counted.total()} {kind}" for kind, counted in found.before.items()),
            "left_behind": "; ".join(found.left) or "nothing",
        },
        {
            "name": f"{name}: memory and files, first and last, and what a round adds (least, most)",
            **{
                f"{kind}_MiB": _grown([getattr(one, kind) / MIB for one in samples]) for kind in ("appliance", "engine")
            },
            "store_MiB": _grown([one.store / MIB for one in samples]),
            "window_of_points_MiB": _grown([one.windowed / MIB for one in samples]),
            "history_KiB": _grown([one.history / 1024 for one in samples]),
        },
    ]


def _grown(values: list[float]) -> str:
    """With the slope of the second half: what comes to rest is no leak."""
    slope, least, most = f.trend(values)
    later = f.trend(values[len(values) // 2 :])[0]
    return f"{values[0]:.2f} to {values[-1]:.2f}, {slope:+} a round ({least:+} to {most:+}), then {later:+}"
