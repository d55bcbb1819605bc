"""What `rha points` prints."""

from __future__ import annotations

from typing import Any

from rha import pointsview


def answer(**words: Any) -> dict[str, Any]:
    span = {"lsn": 8, "time": 1e9, "end_lsn": None, "end_time": None, "why": ""}
    found = {"scenario": "web1", "spans": [span], "bookmarks": [], "open": [], "newest_lsn": 4096}
    found |= {"newest_time": 1e9 + 90, "bytes": 1 << 20, "window_seconds": 3600.0, "window_bytes": 1 << 30}
    return {**found, "cut_why": "", "lost_why": "", **words}


def mark(**words: Any) -> dict[str, Any]:
    return {"name": "n", "lsn": 8, "time": 1e9, "quiesced": [], **words}


def test_length_of_the_window() -> None:
    assert next(pointsview.listing(answer())).startswith("web1: every write of the last 1 min 30 s is a point;")


def test_a_beginning_without_a_time() -> None:
    """Nothing was written before the first sync."""
    span = answer()["spans"][0] | {"time": 0.0}
    assert next(pointsview.listing(answer(spans=[span]))).startswith("web1: every write from LSN 8 on is a point;")


def test_what_was_quiesced_is_said() -> None:
    plain, quiet = mark(name="a"), mark(name="b", quiesced=["PostgreSQL: checkpoint", "/: frozen"])
    lines = [line for line in pointsview.listing(answer(bookmarks=[plain, quiet])) if "bookmark" in line]
    assert "quiesced" not in lines[0]
    assert lines[1].endswith(", quiesced (PostgreSQL: checkpoint; /: frozen)")
