"""Has the appliance stopped taking what it is sent? With a full store, or a disk that hangs, the link is up and nothing
moves."""

from __future__ import annotations

from rha.units import show_bytes, show_seconds

STALL_SECONDS = 20.0  # a disk under load may be silent for some


class Stall:
    """Is told how it stands with each report. LSNs in bytes, times in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._durable: int | None = None
        self._since = 0.0

    def look(self, durable: int | None, captured: int, now: float) -> str:
        """A sentence when nothing was acknowledged for too long, though something waits; else empty. `durable`: up to
        where everything is acknowledged; None: no link, or a sync is at work, which has its own figures."""
        if durable is None or durable != self._durable or captured <= durable:
            self._durable, self._since = durable, now
            return ""
        waited = now - self._since
        if waited < STALL_SECONDS:
            return ""
        left = show_bytes(captured - durable)
        return f"the appliance has acknowledged nothing for {show_seconds(waited)}, {left} wait: rha status there"
