"""What the command line asks the appliance about test boots: one method per request, plain JSON values in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rha.appliance.pointkeeper import answer
from rha.appliance.tester import Tester
from rha.control.local import Handler
from rha.switch.bootreport import FOLDER, BootReport, lines


class TestVerbs:
    """`tester_of(scenario)` raises StateError when it is not here."""

    __test__ = False  # for pytest

    def __init__(self, tester_of: Callable[[str], Tester]) -> None:
        self._tester_of = tester_of

    def handlers(self) -> dict[str, Handler]:
        return {"test": self.test, "test_ahead": self.ahead, "end_test": self.end, "tests": self.tests}

    def ahead(self, scenario: str, at: str = "") -> Any:
        return self._tester_of(scenario).steps_ahead(at)

    def test(self, scenario: str, at: str = "", keep: bool = False, person: str = "operator", reason: str = "") -> Any:
        tester = self._tester_of(scenario)
        return _answer(tester, tester.test(person, reason or "asked for by a person", at, keep=keep))

    def end(self, scenario: str, person: str = "operator") -> Any:
        tester = self._tester_of(scenario)
        return _answer(tester, tester.end(person))

    def tests(self, scenario: str) -> Any:
        """Oldest first."""
        return answer(self._tester_of(scenario).reports())


def _answer(tester: Tester, report: BootReport) -> Any:
    place = str(tester.replica.folder / FOLDER / report.folder)
    return {"report": answer(report), "lines": list(lines(report)), "place": place}
