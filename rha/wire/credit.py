"""Back-pressure by credit: the appliance says how much it will hold, and the engine never sends more than that.

TCP's own back-pressure would hold back heartbeats, gaps and answers with the data. Here the data waits at the sender,
where it is safe in the ring, and the connection stays free for what is small and urgent.

Credit is a count of bytes since the greeting, as in QUIC (RFC 9000, section 4.1), so an acknowledgement that says
nothing new does no harm. Records and sync data share one credit: what has the first turn is the sender's decision
(rha/engine/pace.py), and there is no second count that could be exhausted while the first is not. Nothing the appliance
does with a frame waits for another frame, so credit always comes back. A sender can always go on when everything is
settled, because the least window is larger than the largest credited frame. Between the two sizes an appliance divides
its memory among busy masters (rha/appliance/sharing.py); what was granted is never taken back.
"""

from __future__ import annotations

from dataclasses import dataclass

from rha.wire.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES

WINDOW_BYTES = 32 << 20  # at 100 ms of round trip this is 320 MB/s; memory that one master may take on the appliance
MOST_FRAME_BYTES = 4 << 20  # payload of one credited frame; engines send little more than 1 MiB
LEAST_WINDOW_BYTES = MOST_FRAME_BYTES + HEADER_BYTES

assert LEAST_WINDOW_BYTES <= WINDOW_BYTES
assert MOST_FRAME_BYTES <= MAX_PAYLOAD_BYTES


@dataclass
class Allowance:
    """The sender's side. `granted`: bytes since the greeting, 0: no limit."""

    granted: int = 0
    sent: int = 0

    def fits(self, size: int) -> bool:
        """May a frame of `size` bytes, header included, be sent now?"""
        return self.granted == 0 or self.sent + size <= self.granted

    def spend(self, size: int) -> None:
        self.sent += size

    def grant(self, granted: int) -> None:
        """What an acknowledgement says; an older one is no news."""
        self.granted = max(self.granted, granted)

    @property
    def left(self) -> int | None:
        """Bytes that may be sent now; None: no limit."""
        return max(0, self.granted - self.sent) if self.granted else None


@dataclass
class Grant:
    """The receiver's side. `held`: bytes received and not yet settled."""

    window: int = WINDOW_BYTES
    received: int = 0
    settled: int = 0
    granted: int = 0  # the most that was ever said

    def receive(self, size: int) -> None:
        self.received += size

    def settle(self, size: int) -> None:
        """So many bytes are on stable storage, or need no room any more."""
        self.settled += size

    @property
    def held(self) -> int:
        return self.received - self.settled

    @property
    def limit(self) -> int:
        """What the engine may have sent since the greeting. A smaller window is felt once it has sent what was granted
        before."""
        self.granted = max(self.granted, self.settled + self.window)
        return self.granted
