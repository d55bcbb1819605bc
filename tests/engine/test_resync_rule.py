"""The rule of docs/design.md, "Sync", as a random model: no schedule of writes may leave a wrong prefix, and each part
of the rule is needed. The minus rule and the stream's states are the real ones.

A disk of a few blocks (one sector each counts), writers whose writes pass the probe, reach the queue and complete at
random later moments. Assumption, as in the design: what passed the probe before the mark has completed when the window
closes. On a bio-based disk that is known and not assumed: the drain waits for what the probe keeps, and the window
closes with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import pytest

from rha.appliance.minus import SECTOR, WrittenSectors
from rha.appliance.stream import DiskState, StreamState, fold
from rha.wire.frames import FrameType, Header
from rha.wire.messages import End, Mark

SECTORS, STEPS = 6, 200


@dataclass
class Rule:
    drain: bool = True  # the window closes only when what was submitted before the mark is on the medium
    window: bool = True  # completions between mark and second drain make their sectors pending again
    minus: bool = True  # a range read never replaces what the stream has written since the mark
    early: bool = False  # the window closes as soon as the drain is done
    kept: bool = False  # the drain waits for all that passed the probe before the mark, not only for what is queued


@dataclass
class World:
    """`flying`: sector → [value, phase, submitted before the mark]; phase 0 past the probe, 1 queued, 2 on the
    medium."""

    draw: random.Random
    disk: list[int] = field(default_factory=lambda: [0] * SECTORS)
    logical: list[int] = field(default_factory=lambda: [0] * SECTORS)
    flying: dict[int, list[int]] = field(default_factory=dict)
    stream: list[tuple[str, int, int]] = field(default_factory=list)
    truth: list[list[int]] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    value: int = 0

    def progress(self, window_open: bool) -> None:
        for sector in list(self.flying):
            if self.draw.random() >= 0.25:
                continue
            write = self.flying[sector]
            write[1] += 1
            if write[1] == 2:
                self.disk[sector] = write[0]
            elif write[1] == 3:
                del self.flying[sector]
                if window_open:
                    self.late.add(sector)

    def submit(self, marked: bool) -> int | None:
        sector = self.draw.randrange(SECTORS)
        if sector in self.flying or self.draw.random() >= 0.6:
            return None
        self.value += 1
        self.logical[sector] = self.value
        self.flying[sector] = [self.value, 0, 0 if marked else 1]
        if marked:
            self.emit("write", sector, self.value)
        return sector

    def emit(self, kind: str, sector: int, value: int) -> None:
        self.stream.append((kind, sector, value))
        self.truth.append(list(self.logical))


def one_run(seed: int, rule: Rule) -> bool | None:
    """True: every prefix from the end of the sync on is right; False: one is wrong; None: the sync did not end in
    time."""
    world = World(random.Random(seed))
    pending, mark_at, end = set(range(SECTORS)), world.draw.randrange(10, 60), None
    marked = window_open = False
    drained: set[int] | None = None
    for step in range(STEPS):
        if step == mark_at:
            marked = window_open = True
            world.emit("mark", 0, 0)
            # What a queue freeze waits for, or what the probe keeps.
            drained = {s for s, write in world.flying.items() if rule.kept or write[1] >= 1}
        world.progress(window_open)
        if end is None:
            written = world.submit(marked)
            if written is not None and not marked:
                pending.add(written)
        if not marked or end is not None:
            continue
        if drained and rule.drain:
            drained &= {s for s, write in world.flying.items() if write[2]}
            continue
        if pending:
            sector = world.draw.choice(sorted(pending))
            pending.discard(sector)
            world.emit("read", sector, world.disk[sector])
        elif window_open and (rule.early or not (rule.drain and any(write[2] for write in world.flying.values()))):
            window_open = False  # the second drain: everything from before the mark is on the medium
            pending |= world.late if rule.window else set()
        elif not window_open:
            end = len(world.stream)
            world.emit("end", 0, 0)
    return None if end is None else image_is_right(world, end, rule)


def header(kind: FrameType, lsn: int) -> Header:
    return Header(kind, 0, 0, 0, 8 if kind is FrameType.RECORDS else 0, lsn, 0, 0, 0, 0)


def image_is_right(world: World, end: int, rule: Rule) -> bool:
    """The appliance's side: the real minus rule and the real states decide when the image must be right."""
    image = [-1] * SECTORS
    written = WrittenSectors(0, SECTORS * SECTOR)
    state = StreamState(generation="g", disks=(DiskState(name="d", bytes=SECTORS * SECTOR),))
    lsn = 8
    for position, (kind, sector, value) in enumerate(world.stream):
        if kind == "mark":
            state = fold(state, header(FrameType.MARK, lsn), Mark(epoch=1, disks=[0], method="full"))
        elif kind == "write":
            state = fold(state, header(FrameType.RECORDS, lsn), None)
            lsn += 8
            image[sector] = value
            written.add_range(sector * SECTOR, SECTOR)
        elif kind == "read":
            state = fold(state, header(FrameType.RESYNC, lsn), None)
            if not rule.minus or list(written.without(sector * SECTOR, SECTOR)):
                image[sector] = value
        else:
            state = fold(state, header(FrameType.END, lsn), End(epoch=1, disks=[0], lsn=lsn))
        consistent = state.why_not_consistent() is None
        assert consistent == (position >= end)
        if consistent and image != world.truth[position]:
            return False
    return True


def outcomes(rule: Rule, runs: int = 4000) -> tuple[int, int]:
    """(finished, wrong)."""
    found = [one_run(seed, rule) for seed in range(runs)]
    return sum(one is not None for one in found), sum(one is False for one in found)


@pytest.mark.parametrize("rule", [Rule(), Rule(early=True, kept=True)], ids=["5 s", "bio-based"])
def test_no_prefix_is_wrong(rule: Rule) -> None:
    finished, wrong = outcomes(rule)
    assert finished > 3000
    assert wrong == 0


@pytest.mark.parametrize(
    "rule",
    [
        Rule(drain=False),
        Rule(window=False),
        Rule(minus=False),
        Rule(early=True),
        Rule(early=True, kept=True, minus=False),
    ],
    ids=["without drain", "without late set", "without minus", "early by a queue", "early without minus"],
)
def test_every_part_of_the_rule_is_needed(rule: Rule) -> None:
    finished, wrong = outcomes(rule)
    assert wrong > finished * 0.01


def test_states_are_immutable() -> None:
    state = StreamState()
    with pytest.raises(AttributeError):
        state.next_lsn = 1  # type: ignore[misc]
    assert msgspec.structs.replace(state, next_lsn=1).next_lsn == 1
