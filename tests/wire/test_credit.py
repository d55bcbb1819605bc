"""Never more under way than was granted, and never a standstill: random schedules of sending, taking and answering."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from rha.wire.credit import WINDOW_BYTES, Allowance, Grant
from rha.wire.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES

LARGEST = HEADER_BYTES + MAX_PAYLOAD_BYTES


class Model:
    """An engine, an appliance, and the two directions of the wire between them, each in order."""

    def __init__(self, sizes: list[int]) -> None:
        self.waiting = deque(sizes)
        self.wire: deque[int] = deque()  # frames on their way
        self.held: deque[int] = deque()  # received, not yet in the journal
        self.answers: deque[int] = deque()  # credit on its way back
        self.grant = Grant()
        self.allowance = Allowance(self.grant.limit)

    def send(self) -> bool:
        if not self.waiting or not self.allowance.fits(self.waiting[0]):
            return False
        size = self.waiting.popleft()
        self.allowance.spend(size)
        self.wire.append(size)
        return True

    def arrive(self) -> bool:
        if not self.wire:
            return False
        size = self.wire.popleft()
        self.grant.receive(size)
        self.held.append(size)
        return True

    def settle(self) -> bool:
        if not self.held:
            return False
        self.grant.settle(self.held.popleft())
        self.answers.append(self.grant.limit)
        return True

    def answer(self) -> bool:
        if not self.answers:
            return False
        self.allowance.grant(self.answers.popleft())
        return True

    def check(self) -> None:
        unsettled = sum(self.wire) + sum(self.held)
        assert unsettled <= WINDOW_BYTES
        assert self.grant.held == sum(self.held)
        assert self.allowance.left is not None
        assert self.allowance.left + unsettled + self.on_its_way_back() == WINDOW_BYTES

    def on_its_way_back(self) -> int:
        return self.grant.limit - self.allowance.granted


STEPS = (Model.send, Model.arrive, Model.settle, Model.answer)


@given(
    st.lists(st.one_of(st.integers(HEADER_BYTES, 2 << 20), st.just(LARGEST)), max_size=60),
    st.lists(st.sampled_from(STEPS), max_size=300),
)
def test_in_flight_is_bounded_and_everything_arrives(sizes: list[int], schedule: list[object]) -> None:
    model = Model(sizes)
    for step in schedule:
        step(model)  # type: ignore[operator]
        model.check()
    while any([step(model) for step in STEPS]):  # whatever the schedule left: it goes on by itself
        model.check()
    assert not model.waiting, "a standstill"
    assert model.grant.settled == sum(sizes)


def test_an_older_answer_takes_nothing_back() -> None:
    allowance = Allowance(1000)
    allowance.grant(3000)
    allowance.grant(2000)
    assert allowance.left == 3000


def test_an_appliance_without_credit_sets_no_limit() -> None:
    allowance = Allowance()
    allowance.spend(1 << 40)
    assert allowance.fits(1 << 30)
    assert allowance.left is None
