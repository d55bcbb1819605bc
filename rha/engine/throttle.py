"""What holds the sender back: the scenario's limit, the appliance's credit, the line. The decisions are in pace.py,
schedule.py, credit.py and compression.py; here stands what they have seen."""

from __future__ import annotations

import time
from datetime import datetime

from rha.engine.compression import LineRate
from rha.engine.pace import Bucket
from rha.scenario import Link as LinkTable
from rha.schedule import Limit, limit_at
from rha.wire.credit import Allowance
from rha.wire.link import Link

WAIT_SECONDS = 0.05  # after which whoever waits looks again


class Throttle:
    """One session's. `credit` is new with each greeting."""

    def __init__(self, table: LinkTable) -> None:
        self._table, self._bucket, self._line = table, Bucket(), LineRate()
        self.credit = Allowance()
        self.limit = Limit(0, "not limited")

    def look(self, link: Link, now: float) -> None:
        """To be called about once a second: the schedule, and how fast the line is."""
        self.limit = limit_at(self._table, datetime.now())
        if self.limit.rate != self._bucket.rate:
            self._bucket.set_rate(self.limit.rate, now)
        self._line.look(now, link.sent_bytes, link.busy_seconds, link.blocked_seconds)

    def why_wait(self, size: int) -> tuple[float, str]:
        """How long a data frame of this size must wait at least, and for what."""
        owed = self._bucket.wait_seconds(time.monotonic())
        if owed:
            return min(owed, WAIT_SECONDS), "waits for its limit"
        if not self.credit.fits(size):
            return WAIT_SECONDS, "waits for the appliance's disk"
        return 0.0, ""

    def sent(self, size: int, *, credited: bool) -> None:
        """A frame of this size goes out."""
        self._bucket.spend(size, time.monotonic())
        if credited:
            self.credit.spend(size)

    @property
    def line_rate(self) -> float:
        """Bytes per second that may or can go; 0: nothing limits but the two hosts."""
        return min((rate for rate in (self._line.rate, float(self._bucket.rate)) if rate), default=0.0)
