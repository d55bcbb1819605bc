"""How far one disk's sync is, and what it cost in the end."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from rha.engine.state import METHOD_NAMES, Method
from rha.report import Sync
from rha.units import show_bytes, show_seconds

STEP_SECONDS = 0.2


@dataclass
class SyncProgress:
    """Counts of bytes of one disk. `total_bytes` grows while ranges become pending again; `left_out_bytes`: free space,
    `source`: who said that it is; `waited_seconds`: with all read, until earlier writes had surely ended."""

    method: Method
    total_bytes: int = 0
    done_bytes: int = 0
    read_bytes: int = 0
    compared_bytes: int = 0
    sent_bytes: int = 0
    left_out_bytes: int = 0
    source: str = ""
    waited_seconds: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=50))

    def advance(self, done_bytes: int, sent_bytes: int) -> None:
        self.done_bytes += done_bytes
        self.sent_bytes += sent_bytes
        now = time.monotonic()
        if not self.recent or now - self.recent[-1][0] >= STEP_SECONDS:
            self.recent.append((now, self.done_bytes))

    def rate(self) -> float:
        """Bytes per second over the last ten seconds or so."""
        points = list(self.recent)
        if len(points) < 2:
            return 0.0
        (begin, before), (end, after) = points[0], points[-1]
        return (after - before) / (end - begin)

    def remaining_seconds(self) -> float | None:
        rate = self.rate()
        return max(0.0, self.total_bytes - self.done_bytes) / rate if rate else None

    def as_report(self) -> Sync:
        """The part of the report."""
        return Sync(
            method=self.method,
            done_bytes=self.done_bytes,
            total_bytes=max(self.total_bytes, self.done_bytes),
            sent_bytes=self.sent_bytes,
            rate_bytes=self.rate(),
            remaining_seconds=self.remaining_seconds(),
            read_bytes=self.read_bytes,
            compared_bytes=self.compared_bytes,
            left_out_bytes=self.left_out_bytes,
            source=self.source,
            seconds=time.monotonic() - self.begun,
            waited_seconds=self.waited_seconds,
        )

    def summary(self) -> str:
        """What it was, in one line, once it is over."""
        parts = [f"{METHOD_NAMES[self.method]}: read {show_bytes(self.read_bytes)}"]
        if self.compared_bytes:
            parts.append(f"compared {show_bytes(self.compared_bytes)}")
        parts.append(f"sent {show_bytes(self.sent_bytes)}")
        if self.left_out_bytes:
            parts.append(f"left out {show_bytes(self.left_out_bytes)} of free space")
        taken = show_seconds(time.monotonic() - self.begun)
        if self.waited_seconds >= 1:
            taken += f", {show_seconds(self.waited_seconds)} of them until earlier writes had surely ended"
        return f"{', '.join(parts)}, in {taken}" + (f" ({self.source})" if self.source else "")
