"""How long points are kept: the window is cut at its old end when it is longer than wanted, larger than its quota, or
when the store's disk runs full. Pure, but for what `free_bytes` asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rha.units import show_bytes


class Limits(NamedTuple):
    """`seconds` and `bytes` (undo and its journal) of the window; `reserve`: bytes that stay free on the store's disk,
    and if all undo must go for it."""

    seconds: float
    bytes: int
    reserve: int


class Usage(NamedTuple):
    """What the cut is decided from. `ages`: seconds since each interval ended, oldest first; `sizes`: bytes of undo and
    journal that go with it. The last interval is not among them: it is being written."""

    ages: Sequence[float]
    sizes: Sequence[int]
    last_size: int
    free: int


def cut(usage: Usage, limits: Limits) -> tuple[int, str]:
    """How many of the oldest intervals must go, and why: "" when only because they are old enough. Pure."""
    count, why = 0, ""
    total, free = sum(usage.sizes) + usage.last_size, usage.free
    for age, size in zip(usage.ages, usage.sizes, strict=True):
        if age > limits.seconds:
            pass
        elif total > limits.bytes:
            why = "its quota of bytes is used up"
        elif free < limits.reserve:
            why = "the store's disk is nearly full"
        else:
            break
        count, total, free = count + 1, total - size, free + size
    return count, why


def alarms_of(free: int, reserve: int) -> list[str]:
    """What a person should know of the store's disk before it hurts. `free`: bytes on it."""
    if free < reserve // 2:
        return [f"the store's disk is full ({show_bytes(free)} left): nothing is received until there is room"]
    if free < 2 * reserve:
        return [f"the store's disk is nearly full: {show_bytes(free)} left"]
    return []


def free_bytes(folder: Path) -> int:
    """What an ordinary program may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
