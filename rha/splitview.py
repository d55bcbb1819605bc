"""What `rha split` and `rha kept` print: plain answers in, lines out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from rha.pointsview import moment, place
from rha.switch.split import Evidence, Heard, Substitute, payload_words, show_common
from rha.units import printable, show_bytes, show_seconds
from rha.wire.messages import Alone, AloneDisk


def report(answer: dict[str, Any]) -> Iterator[str]:
    """`answer`: the request `split`."""
    evidence = msgspec.convert(answer["evidence"], Evidence)
    yield printable(answer["sentence"])
    yield ""
    yield f"parted at   {show_common(evidence.common)}, {evidence.kind} by {evidence.by}: {printable(evidence.reason)}"
    yield from map(printable, _master(evidence))
    yield from map(printable, _substitute(evidence.substitute, answer["now"]))
    for sentence in answer["unknown"]:
        yield f"not known   {printable(sentence)}"
    for number, way in enumerate(answer["ways"], 1):
        yield ""
        yield from _way(number, way)


def _master(evidence: Evidence) -> Iterator[str]:
    heard, alone = evidence.master, evidence.alone
    if heard is None:
        yield "master      has not come since"
        return
    yield f"master      {heard.host} ({heard.peer}), heard {moment(heard.time)}"
    if alone is None:
        return
    yield from _stream(evidence, heard, alone)
    for disk in alone.disks:
        yield f"  {disk.name:<10}{_order(disk)}"


def _stream(evidence: Evidence, heard: Heard, alone: Alone) -> Iterator[str]:
    stream = evidence.stream_bytes
    if stream is None:
        yield f"  stream    LSN {alone.acknowledged_lsn} to {alone.lsn} of another count ({heard.generation[:8]}…)"
        return
    yield f"  stream    LSN {alone.lsn} now, acknowledged {alone.acknowledged_lsn}: {stream} bytes behind the point"
    if not stream:
        return
    yield f"  wrote     {payload_words(evidence)}"
    if alone.first is not None:
        last = moment(alone.last) if alone.last is not None else "a time that is not known"
        yield f"  between   {moment(alone.first)} and {last} (its clock)"
    held = min(alone.lsn, evidence.received_lsn) - evidence.common.lsn if evidence.common else 0
    if held > 0:
        yield f"  of that   {held} bytes of stream are on the appliance (rha points)"


def _order(disk: AloneDisk) -> str:
    if disk.state == "ordered":
        return "in write order: every write is in the stream"
    since = f" since {moment(disk.since)}" if disk.since else ""
    if disk.state == "unknown":
        return f"not known{since}: {disk.why}"
    return f"{show_bytes(disk.dirty_bytes)} in ranges at most{since}: {disk.why}"


def _substitute(side: Substitute, now: float) -> Iterator[str]:
    since = f" since {moment(side.started)}, {show_seconds(max(0.0, now - side.started))}" if side.started else ""
    yield f"substitute  {side.domain or 'no domain'} {side.state}{since}"
    for disk in side.disks:
        wrote = "" if disk.guest_bytes is None else f"its guest wrote {disk.guest_bytes} bytes; "
        held = f"{disk.held_bytes} bytes in {disk.overlay}{disk.why and f'; {disk.why}'}"
        held = f"not known: {disk.why}" if disk.held_bytes is None else held
        yield f"  {disk.name:<10}{wrote}{held}"


def _way(number: int, way: dict[str, Any]) -> Iterator[str]:
    yield f"{number}. To {way['title']} ({printable(way['lost'])}):"
    width = max(len(act["on"]) for act in way["acts"])
    for act in way["acts"]:
        yield f"     {printable(act['on']):>{width}}# {printable(act['command'])}"
        yield f"     {'':>{width}}  {act['what']}"


def kept(scenario: str, answers: list[dict[str, Any]]) -> Iterator[str]:
    """`answers`: rha.appliance.kept.Listed as plain values."""
    if not answers:
        yield f"{scenario}: nothing is kept"
    for one in answers:
        yield f"{one['name']}: what the substitute wrote to {', '.join(one['disks'])}, {show_bytes(one['bytes'])}"
        yield f"  from {place(one['lsn'], one['time'])}; kept {moment(one['created'])} by {printable(one['by'])}"
        if one["why_lost"]:
            yield f"  CANNOT BE READ: {one['why_lost']}"
            continue
        yield f"  holds {show_bytes(one['held_bytes'])} of points back to there, whatever `window` says"
        yield f"  rha mount {scenario} DIR --at {one['name']}; rha kept {scenario} --drop {one['name']}"
