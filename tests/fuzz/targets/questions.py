"""Lines of JSON from others: a question at a daemon's control socket, one at an observer, an answer of either."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec

from rha.control import local
from rha.decoding import NotReadable, from_json
from rha.scenario import decode_unit, encode_unit
from rha.watch.observe import _why_not
from rha.watch.observers import Answer, Question


def handler(scenario: str, at: str = "now", count: int = 1) -> object:
    return {"scenario": scenario, "at": at, "count": count}


def run(data: bytes, folder: Path) -> None:
    if not data:
        return
    line = data[1:].split(b"\n")[0]
    try:
        if data[0] % 3 == 0:
            request = local._Request.__new__(local._Request)
            request.server = SimpleNamespace(handlers={"do": handler})  # type: ignore[assignment]
            msgspec.json.encode(request._answer(line))
        elif data[0] % 3 == 1:
            question = from_json(line, Question, dec_hook=decode_unit)
            _why_not(question)
            msgspec.json.encode(question, enc_hook=encode_unit)
        else:
            msgspec.json.encode(from_json(line, Answer, dec_hook=decode_unit))
    except NotReadable:
        return
