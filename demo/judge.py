"""What the substitute must hold, and what it may have lost. Pure: numbers in, a verdict out.

The rule. The client stamps an acknowledged commit with the time at which the answer came. By then its bytes were
submitted to the disk (`synchronous_commit = on`). The product says up to which time it has everything, in two ways:

- the engine reports lag 0 at time T: every write captured before T is durable on the appliance;
- the appliance reports a consistent point whose master's time is T.

The latest such T, over all reports seen, is the promise. A commit stamped before it that is missing breaks the
promise: the demo fails. A commit stamped after it may be missing: that is the RPO window, and the demo prints how long
it really was. A gap in the numbers is never allowed, nor is a row with another content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from demo.ledger import Ack
from rha.report import Report


class Found(NamedTuple):
    """What the substitute's table holds. `damaged`: rows with other content than was sent; `faults`: from amcheck."""

    rows: Collection[int]
    damaged: Sequence[int]
    faults: Sequence[str]


class Verdict(NamedTuple):
    """`lost`: acknowledged and missing; `broken_promises`: those of them that the product had claimed to hold.

    `rpo_seconds`: from the first lost commit's acknowledgement to the master's end, 0.0 when nothing is lost.
    """

    acknowledged: int
    lost: Sequence[int]
    broken_promises: Sequence[int]
    gaps: Sequence[int]
    invented: Sequence[int]
    damaged: Sequence[int]
    faults: Sequence[str]
    rpo_seconds: float

    def why_not(self) -> str | None:
        """The sentence that says what is wrong, or None when the substitute holds what it must."""
        wrong = [
            (self.broken_promises, "commits are missing that the appliance had reported as held"),
            (self.gaps, "rows are missing below the last one"),
            (self.invented, "rows exist that the client never sent"),
            (self.damaged, "rows hold something else than what was sent"),
            (self.faults, "findings of amcheck"),
        ]
        texts = [f"{len(items)} {text} (first: {items[0]})" for items, text in wrong if items]
        return "; ".join(texts) or None


def promised_until(reports: Iterable[Report], asked_at: float) -> float:
    """The time (seconds since the epoch) up to which these reports promise everything; 0.0 when they promise nothing.

    `asked_at`: when the question was sent. An answer is no promise about what came after the question.
    """
    promise = 0.0
    for report in reports:
        if report.role == "engine" and report.lag_bytes == 0 and in_write_order(report):
            promise = max(promise, min(report.time, asked_at))
        if report.role == "appliance" and report.consistent is not None:
            promise = max(promise, report.consistent.time)
    return promise


def in_write_order(report: Report) -> bool:
    """True when every disk of the report is in write order."""
    return bool(report.disks) and all(disk.state == "write-order" for disk in report.disks)


def judge(acks: Sequence[Ack], sent: int, found: Found, promise: float, ended: float) -> Verdict:
    """Compares the log with the table.

    `sent`: number of the last row that the client submitted, acknowledged or not; `ended`: when the master was gone.
    """
    rows = set(found.rows)
    lost = [ack for ack in acks if ack.id not in rows]
    return Verdict(
        acknowledged=len(acks),
        lost=[ack.id for ack in lost],
        broken_promises=[ack.id for ack in lost if ack.time <= promise],
        gaps=[row for row in range(1, max(rows, default=0)) if row not in rows],
        invented=sorted(row for row in rows if not 1 <= row <= sent),
        damaged=found.damaged,
        faults=found.faults,
        rpo_seconds=max(0.0, ended - min(ack.time for ack in lost)) if lost else 0.0,
    )
