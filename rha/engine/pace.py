"""How fast to send, how often to look, and whose turn it is. Pure: time and sizes in, a decision out.

The bucket counts every byte that goes out and may go into debt: a frame is sent whole as soon as nothing is owed, then
its debt is waited off. So a frame larger than the limit of one second still goes, heartbeats are never held back (they
only deepen the debt), and the rate holds over any time longer than one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BURST_SECONDS = 0.05  # what may be saved up while nothing is to be sent
BULK_SHARE = 8  # of this many bytes one is the sync's while records wait: else it would never end on a busy master
GATHER_BYTES = 512 << 10
GATHER_SECONDS = 0.01
RING_PRESSURE = 0.5  # a ring fuller than this wants every byte for records: an overflow costs more than a late sync
IDLE_SECONDS = (0.001, 0.02)  # shortest and longest wait for a record: a look at an empty ring costs 45 µs
QUIET_SHARE = 16  # of the time without a record, one part is waited for the next
BURST_BYTES_PER_SECOND = 8e9  # what a probe copies at most: a burst out of nothing must not fill the ring in one wait


def idle_wait(quiet_seconds: float, ring_bytes: int) -> float:
    """How long a ring that was found empty may be left alone, in seconds. `quiet_seconds`: since the last record."""
    shortest, longest = IDLE_SECONDS
    return max(shortest, min(longest, quiet_seconds / QUIET_SHARE, ring_bytes / BURST_BYTES_PER_SECOND))


@dataclass
class Bucket:
    """A token bucket in bytes. `rate` in bytes per second, 0: no limit. Times are monotonic seconds."""

    rate: int = 0
    _tokens: float = 0.0
    _at: float | None = None

    def set_rate(self, rate: int, now: float) -> None:
        """Another rate from now on. A debt stays; what was saved up at another rate is forgotten."""
        self._refill(now)
        self.rate = rate
        self._tokens = min(self._tokens, 0.0)

    def spend(self, size: int, now: float) -> None:
        """`size` bytes went out."""
        self._refill(now)
        if self.rate:
            self._tokens -= size

    def wait_seconds(self, now: float) -> float:
        """How long the next frame must wait; 0: it may go."""
        self._refill(now)
        return -self._tokens / self.rate if self.rate and self._tokens < 0 else 0.0

    def _refill(self, now: float) -> None:
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        self._tokens = min(self._tokens + passed * self.rate, self.rate * BURST_SECONDS) if self.rate else 0.0


@dataclass
class Gathering:
    """Many small frames cost both sides more than the bytes in them. So records wait for more of them, a moment at
    most, while others are under way (Nagle's rule, RFC 896, with a limit); after a quiet moment they go at once."""

    _sent_at: float = float("-inf")

    def wait_seconds(self, size: int, *, under_way: bool, now: float) -> float:
        """How long records of this size should still wait; 0: they may go. `under_way`: not all that was sent is
        acknowledged."""
        if size >= GATHER_BYTES or not under_way:
            return 0.0
        return max(0.0, self._sent_at + GATHER_SECONDS - now)

    def sent(self, now: float) -> None:
        self._sent_at = now


@dataclass
class Turns:
    """Records before sync data, but never only records: one byte in BULK_SHARE is the sync's, unless the ring fills."""

    _balance: int = field(default=0)  # bytes of bulk that records have paid for; below 0: bulk has had more

    def is_bulk_next(self, *, records_wait: bool, bulk_waits: bool, ring_used: float) -> bool:
        """Whose frame is next. `ring_used`: 0 to 1."""
        if not bulk_waits or not records_wait:
            return bulk_waits
        return ring_used < RING_PRESSURE and self._balance > 0

    def sent_records(self, size: int) -> None:
        self._balance = min(self._balance + size // (BULK_SHARE - 1), 1 << 20)

    def sent_bulk(self, size: int) -> None:
        self._balance = max(self._balance - size, -(1 << 20))
