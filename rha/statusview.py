"""What `rha status` shows, as pure functions of reports and a time.

Two rules stand above the rest: a daemon that does not answer is `missing`, and a report older than STALE_SECONDS is
`unknown`, whatever it says. Colour repeats what the words say, never more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from rha.report import DiskReport, KeptReport, Point, Report, ReturnReport, Sync
from rha.units import printable, show_bytes, show_seconds

STALE_SECONDS = 10.0
_COLOURS = {"ok": "32", "warning": "33", "alarm": "31", "unknown": "35"}
_WORST_FIRST = ("alarm", "unknown", "warning", "ok")


class Heard(NamedTuple):
    """One daemon's answer. `source`: its socket's name, `engine-SCENARIO` or `appliance`; `silence`: why there are no
    reports, empty when it answered."""

    source: str
    reports: list[Report]
    silence: str = ""


def judge(heard: Iterable[Heard], now: float) -> list[Report]:
    """The reports to show, of every daemon: the silent ones as `missing`, the old ones as `unknown`; by scenario."""
    judged = [report for one in heard for report in _judge_one(one, now)]
    return sorted(judged, key=lambda report: (report.scenario, report.role != "engine"))


def _judge_one(one: Heard, now: float) -> Iterator[Report]:
    if one.silence:
        yield missing(one.source, one.silence, now)
    for report in one.reports:
        yield fresh_or_unknown(report, now)


def missing(source: str, why: str, now: float) -> Report:
    """The report that stands for a daemon that gave none."""
    role, _, scenario = source.partition("-")
    return Report(role=role, scenario=scenario, mode="", time=now, health="unknown", state="missing", why=why, disks=[])


def fresh_or_unknown(report: Report, now: float) -> Report:
    """The report itself, or, when it is too old or from the future, the same with everything it claims taken back."""
    age = now - report.time
    if -STALE_SECONDS <= age <= STALE_SECONDS:
        return report
    when = f"{show_seconds(age)} old" if age > 0 else f"{show_seconds(-age)} ahead of this host's clock"
    why = f"the report is {when}; then it was {report.state}: {report.why}"
    disks = [
        msgspec.structs.replace(disk, state="unknown", why=f"last known: {disk.state}", sync=None)
        for disk in report.disks
    ]
    return msgspec.structs.replace(
        report, health="unknown", state="unknown", why=why, disks=disks, lag_bytes=None, lag_seconds=None
    )


def worst(reports: Iterable[Report]) -> str:
    """The worst health of all; `unknown` when there is none."""
    found = {report.health for report in reports}
    return next((health for health in _WORST_FIRST if health in found), "unknown")


def render(reports: list[Report], now: float, *, colour: bool = False) -> str:
    """The text for people, without a line end."""
    if not reports:
        return "No rha daemon runs on this host."
    return "\n\n".join("\n".join(_scenario(report, now, colour)) for report in reports)


def _scenario(report: Report, now: float, colour: bool) -> Iterator[str]:
    title = " ".join(part for part in (report.scenario, report.role, report.mode and f"({report.mode})") if part)
    health = _painted(printable(report.health.upper()), report.health, colour)
    yield f"{printable(title)}  {health}  {printable(report.state)}"
    yield from _field("why", report.why)
    if report.state not in ("missing", "unknown"):
        yield from _field("lag", _lag(report))
        yield from _field("peer", _peer(report))
        yield from _field("link", _link(report))
        yield from _field("ring", _ring(report))
        yield from _field("spool", _spool(report))
        yield from _field("lease", _lease(report))
        yield from _field("released", report.released)
        yield from _field("paused", report.paused)
        for check in report.checks:
            yield from _field("check", check.why)
    yield from _field("consistent", _consistent(report, now))
    yield from _field("points", _window(report, now))
    for kept in report.kept:
        yield from _field("kept", _kept(kept, now))
    for disk in report.disks:
        yield from _disk(disk)
    yield from _field("vm", _vm(report))
    yield from _field("test", _tested(report, now))
    yield from _field("switchback", show_return(report.back) if report.back else "")
    for alarm in report.alarms:
        yield f"  {'alarm':<11} {_painted(printable(alarm), 'alarm', colour)}"


def _disk(disk: DiskReport) -> Iterator[str]:
    yield from _field("disk", f"{disk.name}  {disk.device}  {show_bytes(disk.bytes)}  {disk.state}: {disk.why}")
    if disk.dirty_bytes:
        yield from _field("", f"to be sent again: {show_bytes(disk.dirty_bytes)}")
    if disk.sync:
        yield from _field("", _sync(disk.sync))
    if disk.losses:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(disk.losses.items()))
        yield from _field("", f"writes outside the stream: {reasons}")
    if disk.left_order:
        times = ", ".join(f"{reason} {count}" for reason, count in sorted(disk.left_order.items()))
        yield from _field("", f"left write order: {times} (rha history)")


def _sync(sync: Sync) -> str:
    percent = 100 * sync.done_bytes / sync.total_bytes if sync.total_bytes else 100.0
    remaining = "unknown" if sync.remaining_seconds is None else show_seconds(sync.remaining_seconds)
    return (
        f"sync ({sync.method}): {percent:.1f} % of {show_bytes(sync.total_bytes)}, sent {show_bytes(sync.sent_bytes)}, "
        f"{show_bytes(sync.rate_bytes)}/s, remaining {remaining}"
    )


def _lag(report: Report) -> str:
    amount = "unknown" if report.lag_bytes is None else show_bytes(report.lag_bytes)
    delay = "unknown" if report.lag_seconds is None else show_seconds(report.lag_seconds)
    return f"{amount}, {delay}" if amount != delay else "unknown"


def _peer(report: Report) -> str:
    return f"{report.peer or 'nobody'} ({'connected' if report.connected else 'not connected'})"


def _link(report: Report) -> str:
    link = report.link
    if link is None:
        return ""
    sent = f"sent {show_bytes(link.sent_bytes)}"
    if link.sent_bytes < link.raw_bytes:
        sent += f" for {show_bytes(link.raw_bytes)}"
    return "; ".join(part for part in (link.limit, link.compression, sent, link.waits) if part)


def _ring(report: Report) -> str:
    if not report.ring_bytes:
        return ""
    percent = 100 * report.ring_used_bytes / report.ring_bytes
    carried = f"{report.records} records, {show_bytes(report.payload_bytes)}"
    return f"{percent:.0f} % of {show_bytes(report.ring_bytes)}; {carried}"


def _spool(report: Report) -> str:
    spool = report.spool
    return f"{show_bytes(spool.used_bytes)} of {show_bytes(spool.bytes)}; {spool.why}" if spool else ""


def _lease(report: Report) -> str:
    lease = report.lease
    if lease is None:
        return ""
    serving = f"{lease.serving} ({lease.serving_why})" if lease.serving == "failed" else lease.serving
    return f"{lease.why}; serving: {serving}"


def _consistent(report: Report, now: float) -> str:
    if report.state == "missing":
        return ""
    if report.consistent is None:
        return "no point yet"
    point = report.consistent
    if not point.time:  # nothing was written since the sync, and nothing was heard since the start
        return f"LSN {point.lsn}, no time known"
    return f"LSN {point.lsn}, {_stamp(point.time)}, {show_seconds(max(0.0, now - point.time))} ago"


def _stamp(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"an impossible time ({time})"


def _window(report: Report, now: float) -> str:
    if report.window is None or report.state in ("missing", "unknown"):
        return ""
    window = report.window
    kept = f"{show_bytes(window.bytes)} of {show_bytes(window.most_bytes)}"
    return f"every write {_reach(window.oldest, now)}; {kept}"


def _reach(oldest: Point, now: float) -> str:
    if not oldest.time:
        return f"from LSN {oldest.lsn} on, which has no time"
    return f"of the last {show_seconds(max(0.0, now - oldest.time))}"


def _kept(kept: KeptReport, now: float) -> str:
    if kept.why_lost:
        return f"{kept.name}: CANNOT BE READ: {kept.why_lost}"
    what = (
        f"{show_bytes(kept.bytes)} that a substitute wrote, discarded {show_seconds(max(0.0, now - kept.created))} ago"
    )
    return f"{kept.name}: {what}; holds {show_bytes(kept.held_bytes)} of points"


def _vm(report: Report) -> str:
    if report.vm is None:
        return ""
    vm = report.vm
    figures = (("RPO", vm.rpo_seconds), ("RTO", vm.rto_seconds))
    known = [f"{name} {show_seconds(seconds)}" for name, seconds in figures if seconds is not None]
    return ", ".join([f"{vm.domain} {vm.state}", *([vm.accelerator] if vm.accelerator else []), *known])


def _tested(report: Report, now: float) -> str:
    """The last test boot, one that runs, the next one."""
    test = report.test
    if test is None:
        return ""
    parts = ["never tested"]
    if test.time is not None:
        parts = [f"{test.outcome} {show_seconds(max(0.0, now - test.time))} ago: {test.why}"]
    if test.running:
        parts.append(f"one runs now: {test.running}")
    if test.next is not None:
        parts.append(f"next {datetime.fromtimestamp(test.next, UTC):%Y-%m-%d %H:%M UTC}")
    return "; ".join(parts)


def show_return(back: ReturnReport) -> str:
    """`receiver 192.0.2.10:41234; pass 2: 40 % of 1 GiB, …`."""
    parts = [f"receiver {back.receiver or 'not connected'}"]
    if back.state == "offered":
        return f"{parts[0]} offers its disks; rha switchback takes them"
    if back.total_bytes:
        remaining = "unknown" if back.remaining_seconds is None else show_seconds(back.remaining_seconds)
        percent = 100 * back.done_bytes / back.total_bytes
        parts.append(
            f"{back.step}: {percent:.1f} % of {show_bytes(back.total_bytes)}, {show_bytes(back.rate_bytes)}/s, "
            f"remaining {remaining}"
        )
    if back.passes:
        compared, sent = show_bytes(back.compared_bytes), show_bytes(back.sent_bytes)
        parts.append(f"{back.passes} passes, compared {compared}, sent {sent}")
    return "; ".join(parts)


def _field(label: str, text: str) -> Iterator[str]:
    """`text` may hold what another host said."""
    if text:
        yield f"  {label:<11} {printable(text)}"


def _painted(text: str, health: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS.get(health, '35')}m{text}\x1b[0m" if colour else text
