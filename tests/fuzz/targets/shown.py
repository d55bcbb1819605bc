"""Reports as another host may send them: whatever they say, `rha status` shows them, and no terminal obeys them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rha import statusview
from rha.decoding import NotReadable, from_json
from rha.report import Report
from rha.statusview import Heard

NOW = 1.7e9


def run(data: bytes, folder: Path) -> None:
    """The first byte: 1: the report is of now."""
    if not data:
        return
    try:
        report = from_json(data[1:], Report)
    except NotReadable:
        return
    if data[0] & 1:
        report.time = NOW
    again = msgspec.convert(msgspec.to_builtins([report]), list[Report])
    text = statusview.render(statusview.judge([Heard("engine-web", again)], NOW), NOW)
    assert all(letter.isprintable() or letter == "\n" for letter in text), text
