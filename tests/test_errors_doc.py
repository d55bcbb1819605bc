"""docs/errors.md and the code name the same exit codes."""

from __future__ import annotations

import re
from pathlib import Path

from rha.cli import main
from rha.errors import Exit

TEXT = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()


def test_each_exit_code_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", TEXT, re.M)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in Exit]


def test_codes_from_outside() -> None:
    rows = re.findall(r"^\| (\d+) \| [a-z]", TEXT, re.M)
    assert [int(code) for code in rows] == [main.BUG, main.INTERRUPTED, main.BROKEN_PIPE]
