"""When a copy beside a running guest is near enough; and the rule that makes it exact, as a random model."""

from __future__ import annotations

import random

from rha.switch.copying import portions
from rha.switch.passes import ENOUGH_BYTES, MOST_PASSES, Pass, next_act, pause_seconds

MIB = 1 << 20
FIRST = Pass(number=0, compared=10_000 * MIB, sent=9_000 * MIB, seconds=100)  # 100 MiB/s


def passes(*sizes: int) -> list[Pass]:
    more = [Pass(number=n, compared=size, sent=size, seconds=size / (100 * MIB)) for n, size in enumerate(sizes, 1)]
    return [FIRST, *more]


def test_little_is_enough():
    found = next_act([FIRST], ENOUGH_BYTES, 0)
    assert (found.act, found.why) == (
        "pause",
        "near enough after 1 passes: 16 MiB are left, about 0.32 s of copying in the pause",
    )


def test_as_long_as_it_shrinks():
    assert next_act([FIRST], 1000 * MIB, 60).act == "pass"
    assert next_act(passes(1000 * MIB), 400 * MIB, 60).act == "pass"


def test_a_guest_that_writes_as_fast_as_we_copy():
    found = next_act(passes(1000 * MIB), 900 * MIB, 60)
    assert found.act == "pause"
    assert found.why.startswith("pass 1 has not gained on the guest: 900 MiB are left, about 18 s")
    assert next_act(passes(1000 * MIB), 900 * MIB, 10).act == "refuse"


def test_the_number_of_passes_is_bounded():
    many = passes(*(4000 * MIB >> n for n in range(MOST_PASSES - 1)))
    assert len(many) == MOST_PASSES
    assert next_act(many, 3 * MIB + ENOUGH_BYTES * 8, 60).act == "pause"


def test_nothing_is_known_before_the_first_pass():
    assert pause_seconds([], 0) == 0
    assert pause_seconds([], 1) == 3600


def test_portions_hold_everything_once():
    ranges = [[(0, 10), (20, 5)], [], [(0, 7)]]
    found = list(portions(ranges, 6))
    assert all(sum(length for own in one for _, length in own) <= 6 for one in found)
    for disk, own in enumerate(ranges):
        wanted = [at for offset, length in own for at in range(offset, offset + length)]
        assert wanted == [at for one in found for offset, length in one[disk] for at in range(offset, offset + length)]
    assert list(portions([[], []], 6)) == []


class Guest:
    """Writes under way to a disk of few blocks: begun, landed, ended. A bit is set as QEMU does it: at the end, in the
    bitmap that is enabled then. `early`: at the beginning instead."""

    def __init__(self, draw: random.Random, *, early: bool) -> None:
        self.draw, self.early = draw, early
        self.disk = [0] * 6
        self.bitmap: set[int] | None = None
        self.begun: list[int] = []
        self.landed: list[int] = []
        self.count = 0

    def act(self) -> None:
        kind = self.draw.randrange(3)
        if kind == 0:
            block = self.draw.randrange(len(self.disk))
            if block not in self.begun + self.landed:  # the guest orders writes to one place itself
                self.begun.append(block)
                self.mark(block, self.early)
        elif kind == 1 and self.begun:
            self.land(self.draw.randrange(len(self.begun)))
        elif kind == 2 and self.landed:
            self.mark(self.landed.pop(self.draw.randrange(len(self.landed))), not self.early)

    def land(self, index: int) -> None:
        block = self.begun.pop(index)
        self.count += 1
        self.disk[block] = self.count
        self.landed.append(block)

    def mark(self, block: int, is_due: bool) -> None:
        if is_due and self.bitmap is not None:
            self.bitmap.add(block)

    def live(self) -> None:
        for _ in range(self.draw.randrange(6)):
            self.act()

    def stop(self) -> None:
        while self.begun:
            self.land(0)
        while self.landed:
            self.mark(self.landed.pop(), not self.early)


def home_is_equal(seed: int, *, early: bool = False, gap: bool = False, stopped: bool = True) -> bool:
    """One run of the rule. `gap`: the new bitmap begins after the old one has ended, with the guest running between;
    `stopped`: the last pass waits for the guest's end."""
    draw = random.Random(seed)
    guest, home = Guest(draw, early=early), [-1] * 6
    guest.live()
    guest.bitmap = set()
    todo = set(range(len(home)))
    for _ in range(draw.randrange(1, 4)):
        for block in sorted(todo):
            guest.live()
            home[block] = guest.disk[block]
        guest.live()
        todo, guest.bitmap = guest.bitmap, None if gap else set()
        guest.live()
        guest.bitmap = guest.bitmap or set()
    for block in sorted(todo):
        guest.live()
        home[block] = guest.disk[block]
    if stopped:
        guest.stop()
    last = set(guest.bitmap)
    if not stopped:
        guest.stop()
    for block in last:
        home[block] = guest.disk[block]
    return home == guest.disk


def test_a_fuzzy_copy_and_what_was_dirtied_since_is_the_disk():
    assert all(home_is_equal(seed) for seed in range(5000))


def test_no_part_of_the_rule_can_be_left_out():
    for part in ({"early": True}, {"gap": True}, {"stopped": False}):
        wrong = sum(not home_is_equal(seed, **part) for seed in range(2000))
        assert wrong > 50, f"{part}: {wrong} of 2000 runs are wrong"
