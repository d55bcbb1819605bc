"""`rha sync`: words, keys, and the progress that is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from rha.cli import main, sync


def test_key_is_asked_for_before_anything_is_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = Path(__file__).parents[1] / "samples/good/least.toml"
    assert main.run(["sync", "export", str(tmp_path), "--scenario", str(scenario)]) == 3
    assert "hint: head -c 32 /dev/urandom > medium.key" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_medium_that_is_not_there_is_a_wrong_word(tmp_path: Path) -> None:
    assert main.run(["sync", "import", str(tmp_path / "none")]) == 2


def test_progress_shows_share_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([20.0, 25.0, 40.0])
    monkeypatch.setattr(sync.time, "monotonic", lambda: next(clock))
    shown = sync._Shown(0.0)
    for done in (25, 30, 50):
        shown(done, 100)
    assert capsys.readouterr().err.splitlines() == ["25.0 %, 1 min 0 s left", "50.0 %, 40 s left"]


def test_a_failure_of_the_act_is_raised_where_it_was_begun() -> None:
    def act() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        sync._while_shown(act, lambda: None, lambda done, total: None)
