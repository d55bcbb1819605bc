"""One scenario's rounds of checks: asks here and the observers at the same time, and counts rounds that agree."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rha import program
from rha.scenario import Check, Observer, Scenario
from rha.watch.ask import ask_all, kinds
from rha.watch.base import Result
from rha.watch.verdict import Round
from rha.watch.votes import Vote, opinion_of, why_not_dead

AskObserver = Callable[[Observer, str, Sequence[Check]], Vote]


def asked_here(scenario: Scenario) -> list[Check]:
    """The checks that an observer can ask; the others are told by the master."""
    return [check for check in scenario.check if check.kind != "unit"]


class Watcher:
    """`ask_observer(observer, scenario's name, checks)` never raises: who cannot be asked votes unknown."""

    def __init__(self, ask_observer: AskObserver, scripts: Path = program.FOLDER) -> None:
        self._ask_observer, self._kinds = ask_observer, kinds(scripts)
        self._stopping = threading.Event()
        self._asking: threading.Thread | None = None
        self._last: tuple[float, Round] | None = None  # when it began, and what it found

    def stop(self) -> None:
        """What is being asked ends soon."""
        self._stopping.set()

    def round(self) -> Round | None:
        """The last finished one, with its age."""
        last = self._last
        return last and dataclasses.replace(last[1], age=time.monotonic() - last[0])

    def ask(self, scenario: Scenario, heard: float) -> None:
        """Begins a round unless one is running. `heard`: the master's last sign of life (time.monotonic): no round from
        before it is counted as one of several that agree."""
        if self._asking is not None and self._asking.is_alive():
            return
        self._asking = threading.Thread(target=self._ask, args=(scenario, heard), name=f"ask-{scenario.name}")
        self._asking.daemon = True
        self._asking.start()

    def _ask(self, scenario: Scenario, heard: float) -> None:
        begun, checks = time.monotonic(), asked_here(scenario)
        with ThreadPoolExecutor(1 + len(scenario.observer), thread_name_prefix="observe") as pool:
            asked = [pool.submit(self._ask_observer, one, scenario.name, checks) for one in scenario.observer]
            results = ask_all(checks, stop=self._stopping, kinds=self._kinds)
            votes = tuple(one.result() for one in asked)
        same = 1
        if self._last and self._last[0] > heard:
            before = self._last[1]
            if _is_dead(before.results, before.votes) == _is_dead(results, votes):
                same += before.same
        self._last = (begun, Round(0.0, results, votes, same, time.monotonic() - begun))


def _is_dead(results: tuple[Result, ...], votes: tuple[Vote, ...]) -> bool:
    return why_not_dead(opinion_of(results)[0], votes) is None
