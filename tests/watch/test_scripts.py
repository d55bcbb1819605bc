"""Checks by script and by systemd's word."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.scenario import Check
from rha.watch import script, unit
from rha.watch.base import NoAnswer

pytestmark = pytest.mark.root
CHECK = Check(kind="script", address="look")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return folder


def write(folder: Path, text: str, mode: int = 0o755) -> None:
    (folder / "look").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "look").chmod(mode)


def test_exit_code_0_is_an_answer(folder: Path) -> None:
    write(folder, 'test "$(id -un) $RHA_ACT" = "nobody check"')
    assert script.attempt(CHECK, 5.0, folder) < 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo no master; exit 3", "exit code 3; it said: no master"),
        ("sleep 60", "ran longer than 0.3 s; it was killed"),
    ],
)
def test_anything_else_is_none(folder: Path, text: str, why: str) -> None:
    write(folder, text)
    with pytest.raises(NoAnswer) as error:
        script.attempt(CHECK, 0.3, folder)
    assert str(error.value) == why


def test_one_that_others_could_have_written(folder: Path) -> None:
    write(folder, "exit 0", mode=0o777)
    with pytest.raises(NoAnswer, match="others could replace it"):
        script.attempt(CHECK, 5.0, folder)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success"}, None),
        ({"LoadState": "loaded", "ActiveState": "reloading"}, None),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "systemd says: not-found"),
        ({}, "systemd says: nothing"),
        (
            {"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "exit-code"},
            "it is failed (failed, exit-code)",
        ),
        ({"LoadState": "loaded", "ActiveState": "activating", "SubState": "start"}, "it is activating (start)"),
    ],
)
def test_what_systemd_says(found: dict[str, str], why: str | None) -> None:
    assert unit.why_not(found) == why


def test_systemd_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="systemd cannot be asked: "):
        unit.attempt(Check(kind="unit", address="nginx.service"), 1.0, str(tmp_path / "none"))
