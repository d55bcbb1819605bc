"""What a check is, and how findings are shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from rha.errors import RhaError

Grade = Literal["ok", "warning", "fault"]
GRADES: tuple[Grade, ...] = ("ok", "warning", "fault")


class Finding(msgspec.Struct, frozen=True):
    """One line of the table. `hint` is a next step, empty when there is nothing to do."""

    check: str
    grade: Grade
    finding: str
    hint: str = ""


Check = Callable[[], Finding]


def run(checks: Iterable[Check]) -> list[Finding]:
    """All findings, in order."""
    return [check() for check in checks]


def worst(findings: Iterable[Finding]) -> Grade:
    """The worst grade of all; ok when there is none."""
    return max((finding.grade for finding in findings), key=GRADES.index, default="ok")


def of_error(check: str, error: RhaError, grade: Grade = "fault") -> Finding:
    """A refusal of one of our own parts as a finding."""
    return Finding(check, grade, f"{error.what}: {error.cause}" if error.cause else error.what, error.hint)


def program(name: str, package: str) -> Finding:
    """Is the program there?"""
    path = shutil.which(name)
    if path:
        return Finding(name, "ok", path)
    return Finding(name, "fault", "not found in PATH", f"apt install {package}")


def module(name: str, package: str) -> Finding:
    """Can the distribution's Python module be imported? It is really imported: a broken one shows here, not later."""
    import importlib

    check = f"python module {name}"
    try:
        importlib.import_module(name)
    except ImportError as error:
        hint = f"apt install {package}; make the virtual environment with --system-site-packages"
        return Finding(check, "fault", f"cannot be imported ({error})", hint)
    return Finding(check, "ok", "can be imported")


def table(findings: Iterable[Finding]) -> str:
    """Aligned lines; the grade is a word, so that no colour is needed."""
    rows = list(findings)
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.grade:<8} {row.check:<{width}}  {row.finding}")
        if row.hint:
            lines.append(f"{'':<8} {'':<{width}}  hint: {row.hint}")
    return "\n".join(lines)
