"""Puts checks: each several times, all of them at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from rha import program
from rha.scenario import Check
from rha.watch import http, ping, script, sql, tcp, unit
from rha.watch.base import NoAnswer, Result, answer, silence

Attempt = Callable[[Check, float], float]  # check and timeout in seconds; returns seconds, raises NoAnswer
MAX_AT_ONCE = 16


def kinds(scripts: Path = program.FOLDER) -> Mapping[str, Attempt]:
    """All kinds of checks. `scripts`: the administrator's folder on this host."""
    return MappingProxyType(
        {
            "ping": lambda check, timeout: ping.attempt(check.address, timeout),
            "tcp": lambda check, timeout: tcp.attempt(check.address, timeout),
            "http": http.attempt,
            "sql": sql.attempt,
            "script": lambda check, timeout: script.attempt(check, timeout, scripts),
            "unit": unit.attempt,
        }
    )


KINDS = kinds()


def ask(check: Check, *, stop: threading.Event | None = None, kinds: Mapping[str, Attempt] = KINDS) -> Result:
    """Asks, `check.interval` seconds apart, until `check.needed` attempts were answered, or so many were not that the
    rest of `check.attempts` cannot be enough.

    `stop` ends it early; it then counts as unanswered with the attempts made so far.
    """
    stop = stop or threading.Event()
    begun, why = time.monotonic(), "not asked"
    attempts = answers = 0
    needed, most = max(1, check.needed), max(1, check.attempts)
    while attempts < most and not stop.is_set():
        attempts += 1
        try:
            kinds[check.kind](check, check.timeout)
            answers += 1
        except NoAnswer as error:
            why = str(error)
        if answers >= needed:
            return answer(check, attempts, time.monotonic() - begun)
        if needed - answers > most - attempts:
            break
        stop.wait(check.interval)
    return silence(check, attempts, time.monotonic() - begun, why)


def ask_all(
    checks: Sequence[Check], *, stop: threading.Event | None = None, kinds: Mapping[str, Attempt] = KINDS
) -> tuple[Result, ...]:
    """Asks all checks at the same time; results in their order."""
    if not checks:
        return ()
    with ThreadPoolExecutor(min(len(checks), MAX_AT_ONCE), thread_name_prefix="check") as pool:
        return tuple(pool.map(lambda check: ask(check, stop=stop, kinds=kinds), checks))


def longest(checks: Sequence[Check]) -> float:
    """Seconds after which all of them must have ended."""
    waves = -(-len(checks) // MAX_AT_ONCE)
    return waves * max((check.attempts * (check.timeout + check.interval) for check in checks), default=0.0)
