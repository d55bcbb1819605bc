"""Medians with their spread, ratios pair by pair, and the machine that they were taken on."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple


def end_in_order() -> None:
    """When told to end: daemons, probes and devices go on the way out."""
    for wish in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(wish, lambda number, _: sys.exit(128 + number))


def spread(values: Sequence[float], digits: int = 2) -> list[float]:
    """[median, least, most]."""
    return [round(one, digits) for one in (median(values), min(values), max(values))]


def ratios(with_: Sequence[float], without: Sequence[float]) -> list[float]:
    """[median, least, most] of the ratios of the pairs: what was measured one after the other belongs together."""
    return spread([a / b for a, b in zip(with_, without, strict=True)])


def trend(values: Sequence[float], digits: int = 4) -> list[float]:
    """[slope, lower, upper] of the straight line nearest to values that follow each other: by how much one is more than
    the one before it, and where that lies 19 times of 20 if they scatter about a line by chance alone."""
    count = len(values)
    middle, mean = (count - 1) / 2, fmean(values)
    width = sum((at - middle) ** 2 for at in range(count))
    slope = sum((at - middle) * (value - mean) for at, value in enumerate(values)) / width
    rest = sum((value - mean - slope * (at - middle)) ** 2 for at, value in enumerate(values))
    error = (rest / max(1, count - 2) / width) ** 0.5
    return [round(one, digits) for one in (slope, slope - 2 * error, slope + 2 * error)]


def against(with_: Sequence[NamedTuple], without: Sequence[NamedTuple]) -> dict[str, list[float]]:
    """`ratios` of each field."""
    return {
        field: ratios([getattr(one, field) for one in with_], [getattr(one, field) for one in without])
        for field in with_[0]._fields
    }


def text(figures: Sequence[float]) -> str:
    """`0.94 (0.91-0.97)`."""
    middle, least, most = figures
    return f"{middle} ({least}-{most})"


def load() -> float:
    """Runnable processes over the last minute: what else disturbed the machine, and the measurement itself."""
    return round(os.getloadavg()[0], 1)


def machine() -> str:
    """Processors, memory and kernel, in one line."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"
