"""Orders: what the appliance asks of a connected engine, and the engine's answers. Both ends, without the socket.

An order is a verb of the engine's registry with its arguments; its answer carries the same id. Any number may be under
way, answered in any order. The engine's greeting names its verbs, so one that is older or has none is never asked.

When the link breaks before the answer, the order was perhaps done. Whoever ordered may say so (`Exit.UNKNOWN`) or order
it again over the next link: every handler can be called twice with the same outcome, also while the first call runs.
"""

from __future__ import annotations

import inspect
import itertools
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from rha.errors import Exit, NetworkError, RhaError, StateError
from rha.units import show_seconds
from rha.wire.frames import MAX_PAYLOAD_BYTES
from rha.wire.messages import Answer, Order

Handler = Callable[..., Any]  # named arguments in, a plain JSON value out; raises RhaError
MAX_UNDER_WAY = 8  # each has a thread of the engine, and a stuck one must not take more than that


class Asker:
    """The appliance's side of one connection. `verbs`: what the engine's greeting named; `wake` is called, from any
    thread, when `due` has something new."""

    def __init__(self, verbs: Collection[str], wake: Callable[[], None]) -> None:
        self._verbs, self._wake = frozenset(verbs), wake
        self._ids = itertools.count(1)
        self._due: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._waiting: dict[int, Answer | None] = {}
        self._closed = ""
        self._changed = threading.Condition()

    def ask(self, verb: str, limit: float | None, **arguments: Any) -> Any:
        """The handler's value. Blocks for at most `limit` seconds; None: as long as the link holds.

        Raises StateError when the engine has no such verb, NetworkError when the link has ended, with Exit.UNKNOWN when
        it ends or the limit passes before the answer, and the engine's own refusal as RhaError.
        """
        if verb not in self._verbs:
            known = ", ".join(sorted(self._verbs)) or "none"
            raise StateError(f"the engine does not take the order {verb!r}", cause=f"it takes: {known}", hint=_UPGRADE)
        order = Order(id=next(self._ids), verb=verb, arguments=arguments)
        with self._changed:
            if self._closed:
                raise NetworkError(f"{verb!r} was not ordered", cause=self._closed, hint="rha status")
            self._waiting[order.id] = None
            self._due.put(order)
            self._wake()  # under the lock: behind `close` there may be nothing left to wake
        return _value(self._wait(order, limit))

    def _wait(self, order: Order, limit: float | None) -> Answer:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting[order.id], limit)
            answer = self._waiting.pop(order.id)
        if answer:
            return answer
        cause = self._closed or f"no answer after {show_seconds(limit or 0)}"
        raise NetworkError(
            f"whether the engine has done {order.verb!r} is not known",
            cause=cause,
            hint="rha status on both sides",
            code=Exit.UNKNOWN,
        )

    def due(self) -> list[Order]:
        """Orders to be sent now, each once."""
        return _emptied(self._due)

    def take(self, answer: Answer) -> None:
        """An answer has come. One for which nobody waits any more is dropped."""
        with self._changed:
            if answer.id in self._waiting:
                self._waiting[answer.id] = answer
                self._changed.notify_all()

    def close(self, why: str) -> None:
        """The link has ended: whoever waits, or asks from now on, gets NetworkError."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()


class Performer:
    """The engine's side of one connection: each order in a thread of its own."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._due: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._places = threading.BoundedSemaphore(MAX_UNDER_WAY)

    @property
    def verbs(self) -> list[str]:
        """For the greeting."""
        return sorted(self._handlers)

    def take(self, order: Order) -> None:
        """Begins an order; its answer will be in `due`."""
        if not self._places.acquire(blocking=False):
            cause = f"{MAX_UNDER_WAY} are being done"
            self._due.put(_refusal(order.id, StateError("the engine takes no more orders now", cause=cause)))
            return
        threading.Thread(target=self._perform, args=(order,), name=f"order-{order.verb}", daemon=True).start()

    def due(self) -> list[Answer]:
        """Answers to be sent now, each once."""
        return _emptied(self._due)

    def _perform(self, order: Order) -> None:
        try:
            self._due.put(perform(self._handlers, order))
        finally:
            self._places.release()


def perform(handlers: Mapping[str, Handler], order: Order) -> Answer:
    """Does one order. Whatever goes wrong is in the answer."""
    try:
        handler = _handler(handlers, order)
        answer = Answer(id=order.id, value=handler(**order.arguments))
        size = len(msgspec.json.encode(answer))
        if size > MAX_PAYLOAD_BYTES:
            raise StateError(f"the answer to {order.verb!r} is too large", cause=f"{size} of {MAX_PAYLOAD_BYTES} bytes")
        return answer
    except RhaError as error:
        return _refusal(order.id, error)
    except Exception as error:  # noqa: BLE001 - a bug: said on both sides, and the engine goes on protecting
        traceback.print_exc(file=sys.stderr)
        return _refusal(order.id, RhaError(f"bug in the engine: {error!r}", code=Exit.UNKNOWN))


def _handler(handlers: Mapping[str, Handler], order: Order) -> Handler:
    """Raises RhaError with Exit.USAGE when there is none, or it takes other arguments."""
    handler = handlers.get(order.verb)
    if handler is None:
        raise RhaError(f"the engine does not know the order {order.verb!r}", hint=_UPGRADE, code=Exit.USAGE)
    try:
        inspect.signature(handler).bind(**order.arguments)
    except TypeError as error:
        what = f"the order {order.verb!r} has other arguments"
        raise RhaError(what, cause=str(error), hint=_UPGRADE, code=Exit.USAGE) from error
    return handler


def _refusal(id: int, error: RhaError) -> Answer:
    return Answer(id=id, what=error.what, cause=error.cause, hint=error.hint, code=int(error.code))


def _value(answer: Answer) -> Any:
    if answer.what is None:
        return answer.value
    known = answer.code in Exit.__members__.values()
    code = Exit(answer.code) if known else Exit.UNKNOWN
    raise RhaError(answer.what, cause=answer.cause, hint=answer.hint, code=code)


def _emptied(waiting: queue.SimpleQueue[Any]) -> list[Any]:
    found = []
    while not waiting.empty():
        found.append(waiting.get())
    return found


_UPGRADE = "install the same version on both hosts"
