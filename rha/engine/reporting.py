"""What the engine says of itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rha.capture.capture import Capture
from rha.engine.backlog import Backlog
from rha.engine.disks import Disks
from rha.engine.resync import Round
from rha.engine.session import Progress
from rha.engine.state import DiskView
from rha.report import DiskReport, LinkReport, Report, SpoolReport
from rha.scenario import Scenario


def disk_reports(disks: Disks, capture: Capture, views: Sequence[DiskView], running: Round | None) -> list[DiskReport]:
    """One report a disk; notes a change of its state."""
    found = []
    for i, view in enumerate(views):
        verdict, since = disks.verdict(i, view)
        progress = running.progress.get(i) if running else None
        found.append(
            DiskReport(
                name=view.name,
                device=capture.devices[i].path,
                bytes=capture.devices[i].bytes,
                state=verdict.state,
                reason=verdict.reason,
                why=verdict.why,
                since=since,
                dirty_bytes=view.dirty_bytes,
                losses=capture.losses(i),
                left_order=disks.history.losses(view.name),
                sync=progress.as_report() if progress else None,
                last_sync=disks.last_sync[i],
            )
        )
    return found


def report(
    scenario: Scenario,
    capture: Capture,
    backlog: Backlog,
    disks: list[DiskReport],
    *,
    progress: Progress | None,
    link: LinkReport | None,
    link_why: str,
    spool: SpoolReport | None,
    alarms: list[str],
) -> Report:
    """The scenario's report. `progress`: of the session; None when no appliance is connected."""
    captured = capture.lsn_base + capture.ring.producer
    durable = progress.durable_lsn if progress else capture.lsn_base + backlog.oldest
    worst = next((disk for disk in disks if disk.state != "write-order"), None)
    totals = [capture.captured(i) for i in range(len(disks))]
    return Report(
        role="engine",
        scenario=scenario.name,
        mode=scenario.mode,
        time=time.time(),
        health="alarm" if alarms else "ok" if progress and not worst else "warning",
        state=worst.state if worst else "write-order",
        why=f"{link_why}; {worst.name}: {worst.why}" if worst else f"{link_why}; in write order",
        disks=disks,
        lag_bytes=max(0, captured - durable),
        lag_seconds=_lag_seconds(backlog, captured, durable),
        records=sum(records for records, _ in totals),
        payload_bytes=sum(payload for _, payload in totals),
        ring_bytes=capture.ring.bytes,
        ring_used_bytes=capture.ring.producer - capture.ring.consumer,
        peer=scenario.appliance.address,
        connected=progress is not None,
        link=link,
        spool=spool,
        alarms=alarms,
    )


def _lag_seconds(backlog: Backlog, captured: int, durable: int) -> float:
    """Age of the oldest record that is not acknowledged, by the probe's own clock; 0 when there is none."""
    if captured <= durable:
        return 0.0
    oldest = backlog.oldest_time_ns
    return max(0.0, (time.monotonic_ns() - oldest) / 1e9) if oldest else 0.0
