"""When a copy beside a running guest is near enough, and how long the pause will be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from rha.units import show_bytes, show_seconds

MOST_PASSES = 10  # a guest that writes as fast as the line carries is not caught up by more of them
ENOUGH_BYTES = 16 << 20
ENOUGH_SECONDS = 1.0
SHRINKING = 0.8  # of what was left before: a pass that leaves more has not gained on the guest


class Pass(msgspec.Struct, kw_only=True):
    """One pass over what was dirtied, or (number 0) over everything. Bytes compared, and of these sent."""

    number: int
    compared: int = 0
    sent: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Next:
    """`act`: another pass, the pause, or none of both, since it would be too long; `why`: the sentence."""

    act: Literal["pass", "pause", "refuse"]
    why: str


def next_act(done: Sequence[Pass], left: int, most_seconds: float) -> Next:
    """After the passes `done`, `left` bytes are dirty. `most_seconds`: of pause that a person accepts."""
    seconds = pause_seconds(done, left)
    estimate = f"{show_bytes(left)} are left, about {show_seconds(seconds)} of copying in the pause"
    if left <= ENOUGH_BYTES or seconds <= ENOUGH_SECONDS:
        return Next("pause", f"near enough after {len(done)} passes: {estimate}")
    before = done[-1].compared if len(done) > 1 else None
    if len(done) < MOST_PASSES and (before is None or left < SHRINKING * before):
        return Next("pass", f"pass {len(done)}: {estimate}")
    stuck = f"pass {len(done) - 1} has not gained on the guest" if len(done) < MOST_PASSES else f"{len(done)} passes"
    if seconds <= most_seconds:
        return Next("pause", f"{stuck}: {estimate}")
    return Next("refuse", f"{stuck}: {estimate}, more than {show_seconds(most_seconds)}")


def pause_seconds(done: Sequence[Pass], left: int) -> float:
    """How long `left` bytes will take, by the passes' rate; they are compared twice, the second time to verify."""
    compared, seconds = sum(one.compared for one in done), sum(one.seconds for one in done)
    return 2 * left * seconds / compared if compared else float(left > 0) * 3600
