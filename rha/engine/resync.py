"""One resync, from epoch mark to end (docs/design.md, "Sync"). A first sync is one with all bits set.

1. Late tracking on, disks into data mode, MARK into the stream at the ring position of that moment.
2. Drain, so that few writes submitted before the mark are still on their way.
3. Read the pending blocks and send them, or their digests first. Meanwhile, at least 5 s after the mark: drain again
   and close the
   tracking window. Blocks in which a write completed inside the window are pending once more.
4. When nothing is pending: END, with the ring position after the last read.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rha import hashing
from rha.capture import shared
from rha.capture.capture import Capture
from rha.engine.compare import Answered, Comparer, runs
from rha.engine.outbox import Bulk, Insert, Outbox
from rha.engine.state import Method, Resync
from rha.errors import DeviceError, RhaError, StateError
from rha.report import Sync
from rha.sync.blocks import BLOCK_BYTES, DiskReader
from rha.sync.plan import Piece, pieces
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import End, Mark

WINDOW_SECONDS = 5.0  # a write may reach its queue this much later than the probe, at most


@dataclass
class SyncProgress:
    """For the report. `total_bytes` grows while ranges become pending again."""

    method: Method
    total_bytes: int = 0
    done_bytes: int = 0
    sent_bytes: int = 0
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=50))

    def advance(self, read_bytes: int, sent_bytes: int) -> None:
        self.done_bytes += read_bytes
        self.sent_bytes += sent_bytes
        now = time.monotonic()
        if not self.recent or now - self.recent[-1][0] >= 0.2:
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
        )


class Round(threading.Thread):
    """Runs one resync. `forget(disk)` is called before a disk enters data mode; `done(disks)` when the appliance
    has acknowledged the end; `failed(error)` when it could not be finished (the bits then stay pending)."""

    def __init__(
        self,
        plan: Resync,
        epoch: int,
        capture: Capture,
        outbox: Outbox,
        *,
        forget: Callable[[int], None],
        done: Callable[[tuple[int, ...]], None],
        failed: Callable[[RhaError], None],
    ) -> None:
        super().__init__(name=f"resync-{epoch}", daemon=True)
        self.plan, self.epoch = plan, epoch
        self.progress = {disk: SyncProgress(method) for disk, method in zip(plan.disks, plan.methods, strict=True)}
        self.comparer = Comparer(outbox)
        self._capture, self._outbox = capture, outbox
        self._forget, self._done, self._failed = forget, done, failed
        self._window_ends = 0.0
        self._window_open = False
        self._arrived: list[
            tuple[int, int, int]
        ] = []  # disk, first block, blocks; not cleared before the window closes
        self._aborted = ""

    def abort(self, why: str) -> None:
        """Ends the round soon: a disk left write order again, or the session ended. Any thread."""
        self._aborted = why
        self.comparer.abort(why)

    def _check(self) -> None:
        if self._aborted:
            raise StateError("the resync was broken off", cause=self._aborted)

    def run(self) -> None:
        try:
            self._mark()
            self._drain_all()
            while not self._pass_over_all():
                pass
            self._end()
        except RhaError as error:
            self._failed(error)
        except OSError as error:
            self._failed(DeviceError("the resync failed", cause=str(error), hint="rha doctor"))
        finally:
            self._capture.stop_tracking()

    # 1 and 2 --------------------------------------------------------------------------------------------------

    def _mark(self) -> None:
        capture = self._capture
        for disk, method in self.plan.items():
            if method != "marked":
                capture.mark_all_pending(disk)
                # From here the bits stand for everything the image may lack.
                capture.set_trusted(disk, True, suspected=method == "compare")
        for disk in self.plan.disks:
            capture.enter_bitmap_mode(disk)
        time.sleep(shared.PROBE_SECONDS)  # a probe that saw data mode must not lose its write behind the mark
        capture.start_tracking(list(self.plan.disks))
        self._window_ends, self._window_open = time.monotonic() + WINDOW_SECONDS, True
        position = capture.ring.producer
        for disk in self.plan.disks:
            self._forget(disk)
            capture.enter_data_mode(disk)
        sent = threading.Event()
        mark = Mark(epoch=self.epoch, disks=list(self.plan.disks), method=self.plan.methods[0])
        self._outbox.insert(Insert(position, FrameType.MARK, mark, sent.set, lambda: None))
        while not sent.wait(0.05):
            self._check()
        for disk in self.plan.disks:
            capture.collect_dirty(disk)
            self.progress[disk].total_bytes = capture.dirty_bytes(disk)

    def _drain_all(self) -> None:
        for disk in self.plan.disks:
            self._capture.drain(disk, self._check)

    def _close_window(self) -> None:
        """What completed inside the window is read once more. Everything sent so far must have arrived first, or its
        acknowledgement would clear a bit that was set again."""
        while (left := self._window_ends - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, 0.1))
        self._drain_all()
        self._capture.stop_tracking()
        self._settle_all()
        self._refuse_if_lost()
        self._window_open = False
        for arrived in self._arrived:
            self._capture.clear_pending(*arrived)
        self._arrived.clear()
        for disk, progress in self.progress.items():
            self._capture.collect_dirty(disk)
            progress.total_bytes = progress.done_bytes + self._capture.dirty_bytes(disk)
        self._refuse_if_lost()

    def _refuse_if_lost(self) -> None:
        """A lost write sets its bits, and is on its way still. They must not be taken for those of a write that is on
        the disk: the block would be read without it, and cleared. The session may notice the loss after we read."""
        time.sleep(shared.PROBE_SECONDS)  # the probe sets the bits first and leaves data mode then
        for disk in self.plan.disks:
            if self._capture.mode(disk) != shared.MODE_DATA:
                raise StateError("the resync was broken off", cause=f"disk {disk} left write order")

    # 3 --------------------------------------------------------------------------------------------------------

    def _pass_over_all(self) -> bool:
        """One pass over each disk. True when nothing is pending any more and nothing can become so."""
        for disk, method in self.plan.items():
            with DiskReader(self._capture.devices[disk].path, check=self._check) as reader:
                self._pass(disk, method, reader)
                self._settle_all()
        if self._window_open:
            self._close_window()
            return False
        return all(self._capture.next_pending(disk, 0, 1) is None for disk in self.plan.disks)

    def _pass(self, disk: int, method: Method, reader: DiskReader) -> None:
        def next_run(start: int, longest: int) -> tuple[int, int] | None:
            return self._capture.next_pending(disk, start, longest)

        self._release = reader.release
        for piece in pieces(next_run, self._capture.devices[disk].bytes):
            self._check()
            buffer, view = reader.read(piece.offset, piece.length)
            if method == "compare":
                self.comparer.ask(disk, piece, buffer, view)
                self._settle(self.comparer.answered())
            else:
                self._send(disk, piece, view, lambda b=buffer: reader.release(b))  # type: ignore[misc]
            if self._window_open and time.monotonic() >= self._window_ends:
                self._close_window()

    def _settle_all(self) -> None:
        """Waits until every answer has come and everything sent has arrived."""
        self._settle(self.comparer.answered(all=True))
        self._outbox.wait_empty()

    def _settle(self, answers: Iterable[Answered]) -> None:
        """Equal blocks are done, differing ones are sent from what was read; the buffer is free after the last."""
        for disk, piece, buffer, view, flags in answers:
            open_parts = _Countdown(1 + sum(differs for _, _, differs in runs(flags)), self._release, buffer)
            for first, count, differs in runs(flags):
                at = first * BLOCK_BYTES
                part = view[at : at + count * BLOCK_BYTES]
                here = Piece(piece.first + first, count, piece.offset + at, len(part))
                if differs:
                    self._send(disk, here, part, open_parts.one_less)
                else:
                    self._has_arrived(disk, here)
                    self.progress[disk].advance(len(part), 0)
            open_parts.one_less()

    def _has_arrived(self, disk: int, piece: Piece) -> None:
        """Inside the window no bit is cleared: if the round ended here, nobody would see what completes afterwards in a
        block that was read too early. A round that is broken off there sends some seconds' work again."""
        if self._window_open:
            self._arrived.append((disk, piece.first, piece.blocks))
        else:
            self._capture.clear_pending(disk, piece.first, piece.blocks)

    def _send(self, disk: int, piece: Piece, view: memoryview, release: Callable[[], None]) -> None:
        """Sends one piece; zeros travel as their length."""

        def arrived() -> None:
            self._has_arrived(disk, piece)
            release()

        is_zero = hashing.is_zero(view)
        payload = frames.zeros_payload(piece.length) if is_zero else view
        flags = frames.FLAG_ZEROS if is_zero else 0
        self._outbox.put(Bulk(FrameType.RESYNC, disk, piece.offset, payload, len(payload), flags, arrived))
        self.progress[disk].advance(piece.length, len(payload))

    # 4 --------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._check()
        producer = self._capture.ring.producer
        end = End(epoch=self.epoch, disks=list(self.plan.disks), lsn=self._capture.lsn_base + producer)
        acknowledged = threading.Event()
        self._outbox.insert(Insert(0, FrameType.END, end, lambda: None, acknowledged.set))
        while not acknowledged.wait(0.05):
            self._check()
        self._done(self.plan.disks)


class _Countdown:
    """Releases a buffer when the last of its parts is done; parts end in two threads."""

    def __init__(self, count: int, release: Callable[[Any], None], buffer: Any) -> None:
        self._left, self._release, self._buffer = count, release, buffer
        self._lock = threading.Lock()

    def one_less(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._release(self._buffer)
