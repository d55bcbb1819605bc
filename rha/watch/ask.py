"""Puts checks: each several times, all of them at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from rha.scenario import Check
from rha.watch import ping, tcp
from rha.watch.base import NoAnswer, Result, answer, silence

Attempt = Callable[[str, float], float]
KINDS: Mapping[str, Attempt] = MappingProxyType({"ping": ping.attempt, "tcp": tcp.attempt})
MAX_AT_ONCE = 16


def ask(check: Check, *, stop: threading.Event | None = None, kinds: Mapping[str, Attempt] = KINDS) -> Result:
    """Asks until somebody answers or `check.attempts` are used up, `check.interval` seconds apart.

    `stop` ends it early; it then counts as unanswered with the attempts made so far.
    """
    stop = stop or threading.Event()
    begun, why = time.monotonic(), "not asked"
    attempts = 0
    while attempts < max(1, check.attempts) and not stop.is_set():
        attempts += 1
        try:
            kinds[check.kind](check.address, check.timeout)
            return answer(check, attempts, time.monotonic() - begun)
        except NoAnswer as error:
            why = str(error)
        if attempts < check.attempts:
            stop.wait(check.interval)
    return silence(check, attempts, time.monotonic() - begun, why)


def ask_all(checks: Sequence[Check], *, stop: threading.Event | None = None) -> tuple[Result, ...]:
    """Asks all checks at the same time; results in their order."""
    if not checks:
        return ()
    with ThreadPoolExecutor(min(len(checks), MAX_AT_ONCE), thread_name_prefix="check") as pool:
        return tuple(pool.map(lambda check: ask(check, stop=stop), checks))
