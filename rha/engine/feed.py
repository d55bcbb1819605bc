"""The stream as it is to be sent: records in order, and the frames that must stand between them."""

from __future__ import annotations

from collections.abc import Callable

from rha.capture.capture import Capture, Gap
from rha.capture.ring import NO_LIMIT, Region
from rha.engine.outbox import Insert, Outbox
from rha.wire.frames import FrameType
from rha.wire.messages import Gap as GapMessage

REGION_BYTES = 1 << 20


class Feed:
    """`on_gap(gap)` is called the moment a loss of order is noticed and returns the reason's name."""

    def __init__(self, capture: Capture, outbox: Outbox, on_gap: Callable[[Gap], str]) -> None:
        self._capture, self._outbox, self._on_gap = capture, outbox, on_gap
        self._ring = capture.ring
        self._announced: set[int] = set()

    @property
    def cursor_lsn(self) -> int:
        """Everything below was taken."""
        return self._capture.lsn_base + self._ring.cursor

    @property
    def captured_lsn(self) -> int:
        """Everything below was captured."""
        return self._capture.lsn_base + self._ring.producer

    @property
    def used(self) -> float:
        """How full the ring is, 0 to 1."""
        return (self._ring.producer - self._ring.consumer) / self._ring.bytes

    def begin(self, lsn: int) -> None:
        """Goes on at an LSN that the appliance named."""
        self.acknowledged(lsn)
        self._ring.seek(lsn - self._capture.lsn_base)

    def acknowledged(self, lsn: int) -> None:
        """The appliance holds everything below on stable storage."""
        self._ring.release(lsn - self._capture.lsn_base)

    def forget_gap(self, disk: int) -> None:
        """The disk enters data mode again: its next gap is news."""
        self._announced.discard(disk)

    def next_region(self) -> Region:
        """Committed records up to the next frame that must stand between them; empty when there are none.

        The gap positions are looked at after the end of the region is known: a record that was reserved after a lost
        write left the probe is then never shipped as ordered.
        """
        insert = self._outbox.next_insert()
        limit = insert.position if insert else NO_LIMIT
        region = self._ring.next(REGION_BYTES, limit)
        news = [gap for gap in self._capture.gaps() if gap.disk not in self._announced]
        if not news:
            return region
        for gap in news:
            self._announce(gap, region.begin)
            limit = min(limit, max(gap.position, region.begin))
        self._ring.seek(region.begin)
        return self._ring.next(REGION_BYTES, limit)

    def put_back(self, region: Region) -> None:
        """The region is not sent now."""
        self._ring.seek(region.begin)

    def _announce(self, gap: Gap, shipped: int) -> None:
        self._announced.add(gap.disk)
        reason = self._on_gap(gap)
        message = GapMessage(disk=gap.disk, reason=reason, count=sum(self._capture.losses(gap.disk).values()))
        self._outbox.insert(Insert(max(gap.position, shipped), FrameType.GAP, message, _nothing, _nothing))

    def due_insert(self) -> Insert | None:
        """The control frame whose place in the stream is reached; taken out of the outbox."""
        insert = self._outbox.next_insert()
        if insert is None or self._ring.cursor < insert.position:
            return None
        return self._outbox.pop_insert()


def _nothing() -> None:
    """An insert that nobody waits for."""
