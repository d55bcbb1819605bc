"""What `rha points` and `rha diff` print: plain answers in, lines out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rha.units import printable, show_bytes, show_seconds

RANGES_SHOWN = 20


def moment(time: float) -> str:
    """A time as it can be given to --at: local, to the millisecond."""
    return datetime.fromtimestamp(time).isoformat(timespec="milliseconds") if time else "(no time known)"


def place(lsn: int, time: float) -> str:
    return f"LSN {lsn}, {moment(time)}"


def shown(point: dict[str, Any]) -> str:
    """What an open point shows. `point`: rha.appliance.pointkeeper.Opened as plain values."""
    where = place(point["lsn"], point["time"])
    return f"{point['kept']}, what a substitute left that began at {where}" if point.get("kept") else where


def listing(answer: dict[str, Any]) -> Iterator[str]:
    """`answer`: rha.appliance.pointkeeper.Listing as plain values."""
    name = answer["scenario"]
    if not answer["spans"]:
        yield f"{name}: there are no points" + (f" ({answer['lost_why']})" if answer["lost_why"] else " yet")
        return
    first = answer["spans"][0]
    wanted = f"{show_seconds(answer['window_seconds'])} and {show_bytes(answer['window_bytes'])} are allowed"
    yield f"{name}: every write {_reach(first, answer)} is a point; {show_bytes(answer['bytes'])}, {wanted}"
    if answer["cut_why"]:
        yield f"  the window is shorter than wanted: {answer['cut_why']}"
    if answer["lost_why"]:
        yield f"  older points were lost: {answer['lost_why']}"
    for span in answer["spans"]:
        yield "  " + _span(span, answer)
    for mark in sorted(answer["bookmarks"], key=lambda mark: mark["lsn"]):
        yield f"  bookmark {mark['name']}: {bookmark(mark)}"
    for point in answer["open"]:
        mounts = f", mounted on {', '.join(point['mounts'])}" if point["mounts"] else ""
        lost = f"; CANNOT BE READ any more: {point['why_lost']}" if point.get("why_lost") else ""
        yield f"  open point {point['name']}: {shown(point)}{mounts}{lost}"
    for one in answer.get("kept", []):
        what = f"CANNOT BE READ: {one['why_lost']}" if one["why_lost"] else show_bytes(one["bytes"])
        yield f"  kept {one['name']}: what a substitute wrote behind {place(one['lsn'], one['time'])}, {what}"


def _reach(first: dict[str, Any], answer: dict[str, Any]) -> str:
    """The first span of a disk to which nothing was written before has no time."""
    if not first["time"]:
        return f"from LSN {first['lsn']} on"
    return f"of the last {show_seconds(max(0.0, answer['newest_time'] - first['time']))}"


def bookmark(mark: dict[str, Any]) -> str:
    """`mark`: rha.appliance.points.Bookmark as plain values."""
    how = f", quiesced ({'; '.join(mark['quiesced'])})" if mark["quiesced"] else ""
    return place(mark["lsn"], mark["time"]) + how


def _span(span: dict[str, Any], answer: dict[str, Any]) -> str:
    end_lsn = answer["newest_lsn"] if span["end_lsn"] is None else span["end_lsn"]
    end_time = answer["newest_time"] if span["end_time"] is None else span["end_time"]
    until = "now" if span["end_lsn"] is None else moment(end_time)
    what = f"no points: {printable(span['why'])}" if span["why"] else "points"
    return f"LSN {span['lsn']} to {end_lsn}, {moment(span['time'])} to {until}: {what}"


def difference(answer: dict[str, Any]) -> Iterator[str]:
    """`answer`: the request `changed`."""
    yield f"from {place(*answer['from'])}"
    yield f"to   {place(*answer['to'])}"
    for disk, ranges in answer["ranges"].items():
        yield f"{disk}: {show_bytes(sum(length for _, length in ranges))} in {len(ranges)} ranges differ"
        yield from _ranges(ranges)


def _ranges(ranges: Sequence[Sequence[int]]) -> Iterator[str]:
    for offset, length in ranges[:RANGES_SHOWN]:
        yield f"  {offset:>16}  {show_bytes(length)}"
    if len(ranges) > RANGES_SHOWN:
        yield f"  … and {len(ranges) - RANGES_SHOWN} more (--json shows all)"
