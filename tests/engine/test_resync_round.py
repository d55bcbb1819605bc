"""The real resync (rha.engine.resync.Round), the real order of the stream (feed.py, outbox.py), the real decisions
(state.py) and the appliance's real rules (minus.py, stream.py), under schedules that hypothesis makes up: no prefix of
the stream that is claimed consistent may be wrong.

Kernel, disk and link are models. Writes pass the probe, enter the queue, reach the medium and complete at moments of
hypothesis' choice; so do the round's own calls: its thread gets a turn for each call that it makes of the capture, the
disk, the outbox or the clock, and nothing else moves meanwhile. Assumptions, as in docs/design.md: a probe is done
within 20 ms, a write has entered its queue within 5 s of its probe, and a queue freeze waits for what is in the queue.
A bio-based disk's drain waits for what the probe has seen.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from rha.appliance.minus import SECTOR, WrittenSectors
from rha.appliance.stream import DiskState, StreamState, fold
from rha.capture import shared
from rha.capture.ring import Region
from rha.engine import resync
from rha.engine.disks import Loss
from rha.engine.feed import Feed
from rha.engine.outbox import Bulk, Insert, Outbox
from rha.engine.resync import WINDOW_SECONDS, Round
from rha.engine.state import DiskView, Need, Resync, next_action
from rha.errors import RhaError, StateError
from rha.scenario import Sync
from rha.sync.blocks import BLOCK_BYTES, ReadPiece
from rha.sync.plan import Piece
from rha.wire import frames
from rha.wire.frames import FrameType, Header

BLOCKS = 3
SIZE = BLOCKS * BLOCK_BYTES
PLACES = [block * BLOCK_BYTES + sector * SECTOR for block in range(BLOCKS) for sector in (0, 1)]  # that are written
RECORD_BYTES = 8
READ_SECONDS = WINDOW_SECONDS / 2.5  # so slow that the window ends in the middle of a pass
BASE = 8
PROBE, PROBED, QUEUED, WRITTEN = range(4)


class Turns:
    """Lets the round's thread run from one of its calls to the next, and the test wait meanwhile."""

    def __init__(self) -> None:
        self._thread, self._test = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over, self._is_given_up = False, False

    def give(self) -> None:
        if not self.is_over:
            self._thread.release()
            self._test.acquire()

    def give_up(self) -> None:
        self._is_given_up = True
        while not self.is_over:
            self.give()

    def wait(self) -> None:
        """In the thread."""
        self._test.release()
        self._thread.acquire()
        if self._is_given_up:
            self._is_given_up = False
            raise StateError("the test is over")

    def run(self, work: Callable[[], None]) -> None:
        self._thread.acquire()
        try:
            with contextlib.suppress(StateError):  # the test is over
                work()
        finally:
            self.is_over = True
            self._test.release()


@dataclass
class Write:
    value: int
    in_stream: bool  # the mode that its probe saw
    submitted: float
    phase: int = PROBE


@dataclass(frozen=True)
class Rules:
    """What may be switched off, to see that it is needed. `kept`: the probe keeps each write until it ends, and the
    window closes early; `drains_kept`: the drain waits for those."""

    drain: bool = True
    late: bool = True
    minus: bool = True
    kept: bool = False
    drains_kept: bool = True


class Appliance:
    """Takes the stream; checks each prefix that it claims to be consistent."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.image = dict.fromkeys(PLACES, -1)
        self.state = StreamState(generation="g", next_lsn=None, disks=(DiskState(name="d", bytes=SIZE),))
        self._written: WrittenSectors | None = None
        self.checked = 0

    def control(self, kind: FrameType, message: Any, lsn: int) -> None:
        self.state = fold(self.state, header(kind, lsn), message)
        if kind is FrameType.MARK:
            self._written = WrittenSectors(0, SIZE)

    def record(self, place: int | None, value: int, lsn: int) -> None:
        self.state = fold(self.state, header(FrameType.RECORDS, lsn, RECORD_BYTES), None)
        if place is not None:
            self.image[place] = value
            if self._written:
                self._written.add_range(place, SECTOR)

    def bulk(self, bulk: Bulk, lsn: int) -> None:
        self.state = fold(self.state, header(FrameType.RESYNC, lsn), None)
        zeros = bool(bulk.flags & frames.FLAG_ZEROS)
        length = frames.zeros_length(bulk.payload) if zeros else bulk.raw_length  # type: ignore[arg-type]
        assert self._written
        left = list(self._written.without(bulk.offset, length)) if self._rules.minus else [(bulk.offset, length)]
        for place in PLACES:
            if any(first <= place < first + count for first, count in left):
                at = place - bulk.offset
                self.image[place] = 0 if zeros else int.from_bytes(bulk.payload[at : at + 8], "little")

    def check(self, truth: dict[int, int]) -> None:
        if self.state.why_not_consistent() is None:
            self.checked += 1
            assert self.image == truth, f"at LSN {self.state.lsn}"


def header(kind: FrameType, lsn: int, raw: int = 0) -> Header:
    return Header(kind, 0, 0, 0, raw, lsn, 0, 0, 0, 0)


class SteppedOutbox(Outbox):
    def __init__(self, turns: Callable[[], None]) -> None:
        super().__init__()
        self._turn = turns

    def insert(self, frame: Insert) -> None:
        if isinstance(threading.current_thread(), Round):
            self._turn()
        super().insert(frame)

    def wait_empty(self) -> None:
        while self._unacknowledged:
            self._turn()


class Ring:
    """The backlog (rha.engine.spool): records of one length each, read one by one."""

    def __init__(self) -> None:
        self.records: list[tuple[int | None, int]] = []
        self.cursor = 0

    @property
    def producer(self) -> int:
        return len(self.records) * RECORD_BYTES

    def seek(self, position: int) -> None:
        self.cursor = position

    def end_of_next(self, max_bytes: int, limit: int) -> int:
        return self.cursor + (RECORD_BYTES if self.cursor < min(self.producer, limit) else 0)

    def next(self, max_bytes: int, limit: int) -> Region:
        begin, self.cursor = self.cursor, self.end_of_next(max_bytes, limit)
        return Region(begin, self.cursor, memoryview(b""), 1, 0, 0)


class World:
    """Kernel, medium and link. Also the `Capture` that the round drives."""

    lsn_base = BASE

    def __init__(self, rules: Rules) -> None:
        self.rules, self.clock = rules, 0.0
        self.turns = Turns()
        self.medium = dict.fromkeys(PLACES, 0)
        self.logical = dict(self.medium)
        self.flying: dict[int, Write] = {}
        self.ring = Ring()
        self.truth: list[dict[int, int]] = []  # after each record
        self.in_data_mode = self.trusted = self.tracking = False
        self.dirty: set[int] = set()
        self.pending: set[int] = set()
        self.devices = [SimpleNamespace(path="d", bytes=SIZE)]
        self.outbox = SteppedOutbox(self.turn)
        self.unacknowledged: list[Bulk | Insert] = []
        self.appliance = Appliance(rules)
        self.loss: Loss | None = None
        self.value = 0

    def turn(self) -> None:
        self.turns.wait()

    # The kernel -----------------------------------------------------------------------------------------------

    def submit(self, place: int) -> None:
        self.value += 1
        self.flying[place] = Write(self.value, self.in_data_mode, self.clock)
        if not self.in_data_mode:
            self.logical[place] = self.value  # it comes before every record that it will not stand beside

    def advance(self, place: int) -> None:
        """One step of a write on its way."""
        write = self.flying[place]
        write.phase += 1
        if write.phase == PROBED:
            if write.in_stream:
                self.logical[place] = write.value
                self.reserve(place, write.value)
            else:
                self.dirty.add(place // BLOCK_BYTES)
        elif write.phase == WRITTEN:
            self.medium[place] = write.value
        elif write.phase > WRITTEN:
            del self.flying[place]
            if self.tracking and self.rules.late:
                self.dirty.add(place // BLOCK_BYTES)

    def reserve(self, place: int | None, value: int) -> None:
        self.ring.records.append((place, value))
        self.truth.append(dict(self.logical))

    def overflow(self, place: int) -> None:
        """A write that finds the ring full."""
        self.submit(place)
        write = self.flying[place]
        write.phase = PROBED
        self.logical[place] = write.value
        self.dirty.add(place // BLOCK_BYTES)
        self.in_data_mode = False
        self.loss = self.loss or Loss(0, "ring-full", self.ring.producer)

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        for place, write in list(self.flying.items()):
            age = self.clock - write.submitted
            while place in self.flying and write.phase < (QUEUED if age >= WINDOW_SECONDS else PROBED):
                self.advance(place)

    def drain(self, disk: int, check: object) -> str:
        self.turn()
        seen = QUEUED
        if self.rules.kept and self.rules.drains_kept:
            self.pass_time(shared.PROBE_SECONDS)
            seen = PROBED
        for place, write in list(self.flying.items()) if self.rules.drain else ():
            while write.phase >= seen and place in self.flying:
                self.advance(place)
        return "model"

    def keeps_writes_since(self, disk: int) -> float | None:
        return self.clock - 2 * WINDOW_SECONDS if self.rules.kept else None

    # Capture, as the round sees it ----------------------------------------------------------------------------

    def losses(self, disk: int) -> dict[str, int]:
        return {"ring-full": 1}

    def mode(self, disk: int) -> int:
        self.turn()
        return shared.MODE_DATA if self.in_data_mode else shared.MODE_BITMAP

    def mark_all_pending(self, disk: int) -> None:
        self.pending |= set(range(BLOCKS))

    def set_trusted(self, disk: int, value: bool, *, suspected: bool = False) -> None:
        self.trusted = value

    def enter_bitmap_mode(self, disk: int) -> None:
        self.turn()
        self.in_data_mode = False

    def enter_data_mode(self, disk: int) -> None:
        self.turn()
        self.in_data_mode = True
        self.reserve(None, 0)  # a flush, so that what the bitmap held is another state of the stream

    def start_tracking(self, disks: list[int]) -> None:
        self.turn()
        self.tracking = True

    def stop_tracking(self) -> None:
        self.turn()
        self.tracking = False

    def collect_dirty(self, disk: int) -> None:
        self.turn()
        self.pending |= self.dirty
        self.dirty.clear()

    def clear_pending(self, disk: int, first: int, count: int) -> None:
        self.pending -= set(range(first, first + count))

    def dirty_bytes(self, disk: int) -> int:
        return len(self.dirty | self.pending) * BLOCK_BYTES

    def next_pending(self, disk: int, start: int, longest: int) -> tuple[int, int] | None:
        self.turn()
        first = min((block for block in self.pending if block >= start), default=None)
        return None if first is None else (first, 1)

    # The disk's reader ----------------------------------------------------------------------------------------

    @contextmanager
    def reader(self, path: str, **_: object) -> Iterator[World]:
        yield self

    def read(self, offset: int, length: int) -> tuple[Any, memoryview]:
        self.turn()
        self.pass_time(READ_SECONDS)
        content = bytearray(length)
        for place in PLACES:
            if offset <= place < offset + length:
                content[place - offset : place - offset + 8] = self.medium[place].to_bytes(8, "little")
        return None, memoryview(content)

    def ahead(self, wanted: Iterator[Piece]) -> Iterator[ReadPiece]:
        """Up to two pieces are read before the first of them is used."""
        done: list[ReadPiece] = []
        for piece in wanted:
            done.append(ReadPiece(piece, *self.read(piece.offset, piece.length)))
            if len(done) > 2:
                yield done.pop(0)
        yield from done

    def release(self, buffer: object) -> None:
        pass

    # The session ----------------------------------------------------------------------------------------------

    def ship(self, feed: Feed) -> None:
        """Sends the next frame: a control frame whose place is reached, a record, or sync data."""
        lsn = feed.cursor_lsn
        if insert := feed.due_insert():
            self.appliance.control(insert.type, insert.message, lsn)
            self.unacknowledged.append(insert)
            insert.sent()
        elif (region := feed.next_region()).begin < region.end:
            self.appliance.record(*self.ring.records[region.begin // RECORD_BYTES], lsn)
        elif bulk := self.outbox.pop_bulk():
            self.appliance.bulk(bulk, lsn)
            self.unacknowledged.append(bulk)
        if self.ring.cursor:
            self.appliance.check(self.truth[self.ring.cursor // RECORD_BYTES - 1])

    def acknowledge(self) -> None:
        for item in self.unacknowledged:
            if isinstance(item, Bulk):
                self.outbox.acknowledged(item)
            else:
                item.acknowledged()
        self.unacknowledged.clear()


class SteppedRound(Round):
    def __init__(self, plan: Resync, world: World, **callbacks: Callable[[Any], None]) -> None:
        capture: Any = world
        super().__init__(plan, 1, capture, world.outbox, Sync(), **callbacks)
        self._turns = world.turns

    def run(self) -> None:
        self._turns.run(super().run)


class Machine(RuleBasedStateMachine):
    """Writers, rounds, session and time, in any order."""

    rules_on = Rules()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.rules_on)
        self.round: SteppedRound | None = None
        self.need: Need = "full"
        self.is_ordered = False
        self.seed = 0
        capture: Any = self.world
        backlog: Any = self.world.ring
        self.feed = Feed(capture, backlog, self.world.outbox, self._look, self._on_loss)
        self._patches = pytest.MonkeyPatch()
        event = type("Event", (), {"__init__": init_event, "set": set_event, "wait": wait_event, "world": self.world})
        self._patches.setattr(resync, "threading", SimpleNamespace(Event=event, Lock=threading.Lock))
        clock = SimpleNamespace(monotonic=lambda: self.world.clock, sleep=self._sleep)
        self._patches.setattr(resync, "time", clock)
        self._patches.setattr(resync, "DiskReader", self.world.reader)

    def _sleep(self, seconds: float) -> None:
        self.world.turn()
        self.world.pass_time(seconds)

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.seed = seed

    @rule(place=st.sampled_from(PLACES))
    def submit(self, place: int) -> None:
        if place not in self.world.flying:
            self.world.submit(place)

    @rule(which=st.integers(0, 99), steps=st.integers(1, 4))
    def advance(self, which: int, steps: int) -> None:
        for _ in range(steps):
            if self.world.flying:
                flying = sorted(self.world.flying)
                self.world.advance(flying[which % len(flying)])

    @precondition(lambda self: self.round is not None)
    @rule(turns=st.integers(1, 6))
    def engine(self, turns: int) -> None:
        for _ in range(turns):
            self.world.turns.give()
        self._look_at_round()

    def _look_at_round(self) -> None:
        if self.round and self.world.turns.is_over:
            self.round.join()
            self.round = None

    @rule()
    def decide(self) -> None:
        """What the engine's tick does."""
        world = self.world
        self.feed.announce_losses()
        if self.round:
            return
        view = DiskView(
            name="d",
            is_trusted=world.trusted,
            in_data_mode=world.in_data_mode,
            is_ordered=self.is_ordered,
            is_syncing=False,
            need=self.need,
            dirty_bytes=world.dirty_bytes(0),
        )
        action = next_action([view], 1.0)
        if isinstance(action, Resync) and self.feed.are_gaps_known():
            world.turns = Turns()
            action = replace(action, skips_free=False)  # there is no file system here
            self.round = SteppedRound(action, world, forget=self._forget, done=self._done, failed=self._failed)
            self.round.start()

    def _look(self) -> list[Loss]:
        loss = self.world.loss
        if loss and (self.is_ordered or self.need == "nothing"):
            self.is_ordered, self.need = False, "marked"
        return [loss] if loss else []

    def _on_loss(self, loss: Loss) -> None:
        if self.round:
            self.round.abort("left write order again")

    def _forget(self, disk: int) -> None:
        self.world.loss = None
        self.feed.forget_loss(disk)

    def _done(self, disks: object) -> None:
        self.need, self.is_ordered = "nothing", self.world.loss is None

    def _failed(self, error: RhaError) -> None:
        self.need = "marked" if self.world.trusted else self.need

    @precondition(lambda self: self.world.in_data_mode)
    @rule(place=st.sampled_from(PLACES), chance=st.integers(0, 3))
    def overflow(self, place: int, chance: int) -> None:
        if place not in self.world.flying and not chance:
            self.world.overflow(place)

    @rule(count=st.integers(1, 5))
    def ship(self, count: int) -> None:
        for _ in range(count):
            self.world.ship(self.feed)

    @rule()
    def acknowledge(self) -> None:
        self.world.acknowledge()

    def _anything(self, draw: random.Random) -> None:
        """One step of everybody at random: hypothesis' own steps seldom come as far as the closing of the window."""
        if draw.random() < 0.3:
            self.submit(draw.choice(PLACES))
        if draw.random() < 0.2:
            self.advance(draw.randrange(100), 1)
        if draw.random() < 0.002 and self.world.in_data_mode:
            self.overflow(draw.choice(PLACES), 0)
        self.decide()
        if self.round and draw.random() < 0.9:
            self.engine(1)
        if draw.random() < 0.5:
            self.ship(1)
        if draw.random() < 0.5:
            self.acknowledge()

    def teardown(self) -> None:
        """Left alone, everything comes to its end: the stream is shipped, and the images are the disk."""
        try:
            draw = random.Random(self.seed)
            for _ in range(draw.randrange(600)):
                self._anything(draw)
            for _ in range(4000):
                ring = self.world.ring
                if self.is_ordered and not self.round and not self.world.loss and ring.cursor == ring.producer:
                    break
                self.decide()
                if self.round:
                    self.engine(1)
                self.ship(3)
                self.acknowledge()
                self.advance(0, 1)
            else:
                raise AssertionError("the resync does not end")
        finally:
            if self.round:
                self.world.turns.give_up()
            self._patches.undo()
        assert self.world.appliance.state.why_not_consistent() is None
        assert self.world.appliance.image == self.world.logical


def init_event(self: Any) -> None:
    self.is_set = False


def set_event(self: Any) -> None:
    self.is_set = True


def wait_event(self: Any, timeout: float) -> bool:
    if not self.is_set:
        self.world.turn()
        self.world.pass_time(timeout)
    return bool(self.is_set)


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "stateful_step_count": 40}


@pytest.mark.parametrize("rules", [Rules(), Rules(kept=True)], ids=str)
def test_no_prefix_is_wrong(rules: Rules) -> None:
    machine = type("Sound", (Machine,), {"rules_on": rules})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, **COMMON))


BROKEN = [Rules(drain=False), Rules(late=False), Rules(minus=False), Rules(kept=True, drains_kept=False)]


@pytest.mark.parametrize("rules", BROKEN, ids=str)
def test_every_part_of_the_rule_is_needed(rules: Rules) -> None:
    broken = type("Broken", (Machine,), {"rules_on": rules})
    few = settings(max_examples=2000, phases=[Phase.generate], derandomize=True, database=None, **COMMON)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(broken, settings=few)
