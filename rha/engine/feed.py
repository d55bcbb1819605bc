"""The stream as it is to be sent: records in order, and the frames that must stand between them."""

from __future__ import annotations

from collections.abc import Callable

from rha.capture.capture import Capture
from rha.capture.ring import NO_LIMIT, Region
from rha.engine.backlog import Backlog
from rha.engine.disks import Loss
from rha.engine.outbox import Insert, Outbox
from rha.wire.frames import FrameType
from rha.wire.messages import End, Gap

REGION_BYTES = 1 << 20


class Feed:
    """`look()` lists the losses of order that stand; `on_loss(loss)` is called when one is announced."""

    def __init__(
        self,
        capture: Capture,
        backlog: Backlog,
        outbox: Outbox,
        look: Callable[[], list[Loss]],
        on_loss: Callable[[Loss], None],
    ) -> None:
        self._capture, self._backlog, self._outbox = capture, backlog, outbox
        self._look, self._on_loss = look, on_loss
        self._gaps_under_way = 0
        self._announced: set[int] = set()

    @property
    def cursor_lsn(self) -> int:
        """Everything below was taken."""
        return self._capture.lsn_base + self._backlog.cursor

    @property
    def captured_lsn(self) -> int:
        """Everything below was captured."""
        return self._capture.lsn_base + self._backlog.producer

    @property
    def used(self) -> float:
        """How full the ring is, 0 to 1."""
        return self._backlog.ring_used

    def begin(self, lsn: int) -> None:
        """Goes on at an LSN that the appliance named."""
        self.acknowledged(lsn)
        self._backlog.seek(lsn - self._capture.lsn_base)

    def acknowledged(self, lsn: int) -> None:
        """The appliance holds everything below on stable storage."""
        self._backlog.release(lsn - self._capture.lsn_base)

    def forget_loss(self, disk: int) -> None:
        """The disk enters data mode again: its next loss is news."""
        self._announced.discard(disk)

    def next_region(self) -> Region:
        """Committed records up to the next frame that must stand between them; empty when there are none.

        Losses are looked for after the end of the region is known: a record that was reserved after a lost write left
        the probe is then never shipped as ordered.
        """
        insert = self._outbox.next_insert()
        limit = insert.position if insert else NO_LIMIT
        begin, end = self._backlog.cursor, self._backlog.end_of_next(REGION_BYTES, limit)
        if begin < end:  # losses that nothing follows are announced with the next tick
            limit = min(end, *(max(loss.position, begin) for loss in self.announce_losses()), NO_LIMIT)
        return self._backlog.next(REGION_BYTES, limit)

    def put_back(self, region: Region) -> None:
        """The region is not sent now."""
        self._backlog.seek(region.begin)

    def announce_losses(self) -> list[Loss]:
        """Losses that this session has not announced; each gets its GAP, where the stream stands or later."""
        news = [loss for loss in self._look() if loss.disk not in self._announced]
        for loss in news:
            self._announced.add(loss.disk)
            self._on_loss(loss)
            count = sum(self._capture.losses(loss.disk).values())
            message = Gap(disk=loss.disk, reason=loss.reason, count=count)
            position = max(loss.position, self._backlog.cursor)
            self._outbox.insert(Insert(position, FrameType.GAP, message, _nothing, self._gap_arrived))
            self._gaps_under_way += 1
        return news

    def _gap_arrived(self) -> None:
        self._gaps_under_way -= 1

    def are_gaps_known(self) -> bool:
        """True when the appliance holds every gap that was announced. Before that no disk may enter data mode again:
        the probe would forget the gap, and if the link broke then, nobody would ever tell the appliance."""
        return self._gaps_under_way == 0

    def due_insert(self) -> Insert | None:
        """The control frame whose place in the stream is reached; taken out of the outbox.

        The end of a sync is dropped when one of its disks left order again: behind the gap it would claim order. Its
        round is being broken off.
        """
        insert = self._outbox.next_insert()
        if insert is None or self._backlog.cursor < insert.position:
            return None
        self._outbox.pop_insert()
        is_void = isinstance(insert.message, End) and self._announced.intersection(insert.message.disks)
        return self.due_insert() if is_void else insert


def _nothing() -> None:
    """An insert that nobody waits for."""
