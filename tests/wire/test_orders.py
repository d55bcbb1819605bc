"""Orders and answers: the two ends alone, and over two links."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rha.errors import Exit, NetworkError, RhaError, StateError, VmError
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import Answer, Order
from rha.wire.orders import MAX_UNDER_WAY, Asker, Performer, perform
from tests.wire.test_link import Pair, keys, pair  # noqa: F401


def nothing() -> None:
    pass


def asked(asker: Asker, verb: str, limit: float | None = 30, **arguments: Any) -> Callable[[], Any]:
    """Asks in a thread; the result's call returns the value or raises."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(asker.ask(verb, limit, **arguments))
        except RhaError as error:
            found.put(error)

    threading.Thread(target=ask, daemon=True).start()

    def result() -> Any:
        value = found.get(timeout=30)
        if isinstance(value, RhaError):
            raise value
        return value

    return result


def next_due(end: Asker | Performer) -> Any:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if due := end.due():
            assert len(due) == 1
            return due[0]
        time.sleep(0.001)
    raise AssertionError("nothing due")


def test_answers_in_another_order_find_their_questions() -> None:
    asker = Asker(["double"], nothing)
    results, orders = [], []
    for number in (3, 4):
        results.append(asked(asker, "double", number=number))
        orders.append(next_due(asker))
    for order in reversed(orders):
        asker.take(perform({"double": lambda number: 2 * number}, order))
    assert [result() for result in results] == [6, 8]


def test_a_refusal_arrives_with_its_three_lines_and_code() -> None:
    def stop() -> None:
        raise VmError("nginx.service does not stop", cause="it hangs", hint="systemctl kill nginx")

    asker = Asker(["stop"], nothing)
    result = asked(asker, "stop")
    asker.take(perform({"stop": stop}, next_due(asker)))
    with pytest.raises(RhaError) as caught:
        result()
    assert caught.value.lines() == [
        "error: nginx.service does not stop",
        "cause: it hangs",
        "hint: systemctl kill nginx",
    ]
    assert caught.value.code == Exit.VM


def test_a_verb_the_engine_has_not_named_is_never_sent() -> None:
    asker = Asker([], nothing)
    with pytest.raises(StateError, match="does not take the order 'release'"):
        asker.ask("release", 1)
    assert asker.due() == []


def test_without_an_answer_the_outcome_is_unknown() -> None:
    asker = Asker(["release"], nothing)
    with pytest.raises(NetworkError, match="is not known") as caught:
        asker.ask("release", 0.01)
    assert caught.value.code == Exit.UNKNOWN
    asker.take(Answer(id=1))  # too late: nobody is told


def test_the_end_of_the_link_ends_the_wait_and_refuses_what_follows() -> None:
    asker = Asker(["release"], nothing)
    result = asked(asker, "release", None)
    next_due(asker)
    asker.close("the link to 192.0.2.1 ended")
    with pytest.raises(NetworkError, match="is not known") as caught:
        result()
    assert (caught.value.cause, caught.value.code) == ("the link to 192.0.2.1 ended", Exit.UNKNOWN)
    with pytest.raises(NetworkError, match="was not ordered") as caught:
        asker.ask("release", None)
    assert caught.value.code == Exit.NETWORK


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order(id=1, verb="fly"), "does not know the order 'fly'"),
        (Order(id=1, verb="double", arguments={"count": 2}), "the order 'double' has other arguments"),
        (Order(id=1, verb="double", arguments={"number": None}), "bug in the engine: TypeError"),
        (Order(id=1, verb="huge"), "the answer to 'huge' is too large"),
    ],
)
def test_what_cannot_be_done_is_an_answer(order: Order, said: str) -> None:
    answer = perform({"double": lambda number: 2 * number, "huge": lambda: "x" * (17 << 20)}, order)
    assert answer.what is not None
    assert said in answer.what
    assert answer.value is None


def test_stuck_orders_are_bounded() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def stick() -> str:
        begun.release()
        go.wait(30)
        return "done"

    performer = Performer({"stick": stick})
    assert performer.verbs == ["stick"]
    for id in range(MAX_UNDER_WAY):
        performer.take(Order(id=id, verb="stick"))
        begun.acquire()
    performer.take(Order(id=99, verb="stick"))
    refused = next_due(performer)
    assert (refused.id, refused.what) == (99, "the engine takes no more orders now")
    go.set()
    answers: list[Answer] = []
    while len(answers) < MAX_UNDER_WAY:
        answers += performer.due()
    assert {answer.value for answer in answers} == {"done"}


def test_over_two_links(pair: Pair) -> None:  # noqa: F811
    near, far = pair
    asker, performer = Asker(["greet"], nothing), Performer({"greet": lambda name: f"hello {name}"})
    result = asked(asker, "greet", name="wörld")
    far.post(frames.control(FrameType.ORDER, next_due(asker)))
    found, until = [], time.monotonic() + 30
    while not found and time.monotonic() < until:
        far.step(0.001)
        for header, payload in near.step(0.001):
            performer.take(frames.decode_control(header, payload, Order))
        for answer in performer.due():
            near.post(frames.control(FrameType.ANSWER, answer))
        found = [one for one in far.step(0.001) if one[0].type is FrameType.ANSWER]
    asker.take(frames.decode_control(*found[0], Answer))
    assert result() == "hello wörld"
