"""The history survives the engine, a torn line and a folder that cannot be written."""

from __future__ import annotations

from pathlib import Path

from rha.engine import history, lastrun
from rha.engine.history import Change, History


def change(reason: str, *, state: str = "bitmap", is_loss: bool = True) -> Change:
    return Change(time=1.0, disk="root", state=state, reason=reason, why="because", is_loss=is_loss)


def test_changes_and_counts_survive(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.add(change("ring-full"))
    first.add(change("ring-full"))
    first.add(change("synced", state="write-order", is_loss=False))
    first.close()
    again = History(tmp_path)
    assert again.losses("root") == {"ring-full": 2}
    assert again.losses("other") == {}
    last = again.last("root")
    assert last is not None
    assert last.state == "write-order"
    again.close()


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.add(change("reboot"))
    first.close()
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"time": 2.0, "disk": "ro')
    second = History(tmp_path)
    second.add(change("ring-full"))
    second.close()
    assert [one.reason for one in history.read(tmp_path)] == ["reboot", "ring-full"]


def test_the_file_is_turned_over_and_both_are_read(tmp_path: Path) -> None:
    kept = History(tmp_path)
    long = Change(time=1.0, disk="root", state="bitmap", reason="ring-full", why="x" * (history.LONGEST_BYTES // 2))
    for _ in range(3):
        kept.add(long)
    kept.add(change("reboot"))
    kept.close()
    assert (tmp_path / "history.jsonl.1").stat().st_size > history.LONGEST_BYTES
    assert [one.reason for one in history.read(tmp_path)] == ["ring-full", "ring-full", "ring-full", "reboot"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = History(tmp_path / "file" / "below")
    assert "cannot be kept" in blocked.failure
    blocked.add(change("ring-full"))
    assert blocked.losses("root") == {"ring-full": 1}
    blocked.close()


def test_why_no_probe_stands() -> None:
    before = lastrun.LastRun(boot_id="a", ended=True)
    assert lastrun.why_no_pins(None, "a") == "first-load"
    assert lastrun.why_no_pins(before, "a") == "pins-gone"
    assert lastrun.why_no_pins(before, "b") == "reboot"
    assert lastrun.why_no_pins(lastrun.LastRun(boot_id="a", ended=False), "b") == "unclean-shutdown"


def test_the_last_run_is_noted(tmp_path: Path) -> None:
    assert lastrun.load(tmp_path) is None
    assert lastrun.save(tmp_path / "new", ended=False) == ""
    assert lastrun.load(tmp_path / "new") == lastrun.LastRun(boot_id=lastrun.boot_id(), ended=False)
    (tmp_path / "new" / "last-run.json").write_text("{")
    assert lastrun.load(tmp_path / "new") is None
