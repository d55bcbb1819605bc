"""One resync, from epoch mark to end (docs/design.md, "Sync"). A first sync is one with all bits set.

1. Late tracking on, disks into data mode, MARK into the stream at the ring position of that moment.
2. Drain, so that few writes submitted before the mark are still on their way. Then ask the file systems what is free:
   what they say now is made up for by the stream, whatever becomes of it.
3. Read the pending blocks and send them, or their digests first. Meanwhile, at least 5 s after the mark: drain again
   and close the tracking window. Blocks in which a write completed inside the window are pending once more. Where
   the drain sees each write end (bio-based disks), the window closes right behind it.
4. When nothing is pending: END, with the ring position after the last read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from rha import hashing
from rha.capture import shared
from rha.capture.capture import Capture
from rha.engine.compare import Answered, Comparer, runs
from rha.engine.outbox import Bulk, Insert, Outbox
from rha.engine.pace import Bucket
from rha.engine.progress import SyncProgress
from rha.engine.state import Method, Resync
from rha.errors import DeviceError, RhaError, StateError
from rha.scenario import Sync
from rha.sync import free_frames, freespace, paced
from rha.sync.blocks import BLOCK_BYTES, PAGE_BYTES, DiskReader
from rha.sync.freespace import Range
from rha.sync.plan import Piece, pieces
from rha.sync.refine import Refinement
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import End, Mark

WINDOW_SECONDS = 5.0  # a write may reach its queue this much later than the probe, at most


class Round(threading.Thread):
    """Runs one resync. `settings`: the scenario's. `forget(disk)` is called before a disk enters data mode;
    `done(disks)` when the appliance has acknowledged the end; `failed(error)` when it could not be finished (the bits
    then stay pending)."""

    def __init__(
        self,
        plan: Resync,
        epoch: int,
        capture: Capture,
        outbox: Outbox,
        settings: Sync,
        *,
        forget: Callable[[int], None],
        done: Callable[[tuple[int, ...]], None],
        failed: Callable[[RhaError], None],
    ) -> None:
        super().__init__(name=f"resync-{epoch}", daemon=True)
        self.plan, self.epoch = plan, epoch
        self.progress = {disk: SyncProgress(method) for disk, method in zip(plan.disks, plan.methods, strict=True)}
        self.comparer: Comparer[_Countdown] = Comparer(outbox, "the resync")
        self._refinement = Refinement()
        self.abort, self._check = self.comparer.abort, self.comparer.check
        self._bucket, self._gives_way = Bucket(rate=int(settings.read_limit)), settings.priority == "idle"
        self._capture, self._outbox = capture, outbox
        self._forget, self._done, self._failed = forget, done, failed
        self._window_ends = 0.0
        self._window_open = False
        # Disk, first block, blocks: not cleared before the window closes.
        self._arrived: list[tuple[int, int, int]] = []

    def run(self) -> None:
        if self._gives_way:
            paced.give_way()
        try:
            self._mark()
            self._drain_all()
            self._end_window_early()
            self._leave_out_free()
            while not self._pass_over_all():
                pass
            self._end()
        except RhaError as error:
            self._failed(error)
        except OSError as error:
            self._failed(DeviceError("the resync failed", cause=str(error), hint="rha doctor"))
        except Exception as error:  # a bug: named in the status and tried again; the log gets the traceback
            self._failed(DeviceError("the resync failed", cause=f"a bug in rha: {error!r}"))
            raise
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
        mark = Mark(
            epoch=self.epoch,
            disks=list(self.plan.disks),
            method=self.plan.methods[0],
            methods=list(self.plan.methods),
        )
        self._outbox.insert(Insert(position, FrameType.MARK, mark, sent.set, lambda: None))
        while not sent.wait(0.05):
            self._check()
        for disk in self.plan.disks:
            capture.collect_dirty(disk)
            self.progress[disk].total_bytes = capture.dirty_bytes(disk)

    def _drain_all(self) -> None:
        for disk in self.plan.disks:
            self._capture.drain(disk, self._check)

    def _end_window_early(self) -> None:
        """The window is for writes that the drain could not see: past the probe before the mark, and not yet in their
        queue. Of a bio-based disk the probe itself keeps each write until it ends; it has done so since it was loaded
        or had no room for one, and what was submitted before that has its 5 s from then on."""
        since = [self._capture.keeps_writes_since(disk) for disk in self.plan.disks]
        known = [one for one in since if one is not None]
        if len(known) == len(since):
            self._window_ends = min(self._window_ends, max(known) + WINDOW_SECONDS)

    def _leave_out_free(self) -> None:
        """What file systems hold for free is neither read nor sent: the appliance is told, and it is pending no more.
        Asked anew in each round; what an earlier one left out stays so."""
        for disk, method in self.plan.items():
            if method == "marked" or not self.plan.skips_free:
                continue
            found = freespace.look(self._capture.devices[disk], self._check)
            blocks = freespace.whole_blocks(found.ranges)
            progress = self.progress[disk]
            progress.source, progress.left_out_bytes = found.sentence, sum(count for _, count in blocks) * BLOCK_BYTES
            for at in range(0, len(blocks), free_frames.MOST_RANGES):
                self._say_free(disk, blocks[at : at + free_frames.MOST_RANGES])
            self._outbox.wait_empty()
            progress.total_bytes = self._capture.dirty_bytes(disk)

    def _say_free(self, disk: int, blocks: list[Range]) -> None:
        """Cleared at once and not when the window closes (`_has_arrived`): nothing is on its way to such a block, as a
        file system frees one only when its writes have ended. A write to it that is lost from now on sets its bit in
        the other plane, which is collected when the window closes."""

        def arrived() -> None:
            for first, count in blocks:
                self._capture.clear_pending(disk, first, count)

        payload = free_frames.encode_ranges((first * BLOCK_BYTES, count * BLOCK_BYTES) for first, count in blocks)
        self._outbox.put(Bulk(FrameType.FREE, disk, 0, payload, len(payload), 0, arrived))

    def _close_window(self) -> None:
        """What completed inside the window is read once more. Everything sent so far must have arrived first, or its
        acknowledgement would clear a bit that was set again."""
        begun = time.monotonic()
        while (left := self._window_ends - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, 0.1))
        for progress in self.progress.values():
            progress.waited_seconds += time.monotonic() - begun
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

        wanted = self._paced(pieces(next_run, self._capture.devices[disk].bytes))
        while True:
            for piece, buffer, view in reader.ahead(self._while_open_or_closed(wanted)):
                self._take_piece(disk, method, piece, view, partial(reader.release, buffer))
            if not self._is_window_over():
                break
            self._close_window()

    def _is_window_over(self) -> bool:
        """Open longer than it has to be."""
        return self._window_open and time.monotonic() >= self._window_ends

    def _while_open_or_closed(self, wanted: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces up to the moment at which the window is to be closed. What was read before it must have been sent
        before it, and arrived: else it would clear a bit that a later write has set again."""
        while not self._is_window_over() and (piece := next(wanted, None)):
            yield piece

    def _take_piece(
        self, disk: int, method: Method, piece: Piece, view: memoryview, release: Callable[[], None]
    ) -> None:
        """Sends what was read, or its digests. `release` gives its memory back."""
        self.progress[disk].read_bytes += piece.length
        if method == "compare":
            self.progress[disk].compared_bytes += piece.length
            self.comparer.ask(disk, piece, _Countdown(1, release), view)
            self._settle(self.comparer.answered())
        else:
            self._send(disk, piece, view, _Countdown(1, partial(self._piece_done, disk, piece, release)))

    def _paced(self, wanted: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces, each when the disk may be read for it."""
        for piece in wanted:
            self._check()
            while owed := self._bucket.wait_seconds(time.monotonic()):
                time.sleep(min(owed, 0.2))
                self._check()
            self._bucket.spend(piece.length, time.monotonic())
            yield piece

    def _settle_all(self) -> None:
        """Waits until every answer has come, also those to second questions, and everything sent has arrived."""
        while answers := list(self.comparer.answered(all=True)):
            self._settle(answers)
        self._outbox.wait_empty()

    def _settle(self, answers: Iterable[Answered[_Countdown]]) -> None:
        """Equal blocks are done; differing ones are asked about by page, or sent from what was read."""
        for answer in answers:
            if answer.unit == PAGE_BYTES:
                self._settle_pages(answer)
            else:
                self._settle_blocks(answer)
            answer.holder.one_less()

    def _settle_blocks(self, answer: Answered[_Countdown]) -> None:
        disk, _, piece, holder, view, flags = answer
        for first, count, differs in runs(flags):
            at = first * BLOCK_BYTES
            part = view[at : at + count * BLOCK_BYTES]
            here = Piece(piece.first + first, count, piece.offset + at, len(part))
            if not differs:
                self._has_arrived(disk, here)
                self.progress[disk].advance(len(part), 0)
                continue
            holder.one_more()
            if self._refinement.is_worth():
                self.comparer.ask(disk, here, holder, part, PAGE_BYTES)
            else:
                self._send(disk, here, part, _Countdown(1, partial(self._end_part, disk, here, holder)))

    def _settle_pages(self, answer: Answered[_Countdown]) -> None:
        """The blocks are done when all their differing pages have arrived."""
        disk, unit, piece, holder, view, flags = answer
        holder.one_more()
        open_parts = _Countdown(1, partial(self._end_part, disk, piece, holder))
        differing = 0
        for first, count, differs in runs(flags):
            part = view[first * unit : (first + count) * unit]
            if differs:
                differing += len(part)
                open_parts.one_more()
                self._send(disk, Piece(0, 0, piece.offset + first * unit, len(part)), part, open_parts)
            else:
                self.progress[disk].advance(len(part), 0)
        self._refinement.learn(piece.length, differing)
        open_parts.one_less()

    def _piece_done(self, disk: int, piece: Piece, release: Callable[[], None]) -> None:
        self._has_arrived(disk, piece)
        release()

    def _end_part(self, disk: int, piece: Piece, holder: _Countdown) -> None:
        self._has_arrived(disk, piece)
        holder.one_less()

    def _has_arrived(self, disk: int, piece: Piece) -> None:
        """The appliance holds these blocks as they were read. Inside the window no bit is cleared: if the round ended
        here, nobody would see what completes afterwards in a block that was read too early. A round that is broken off
        there sends some seconds' work again."""
        if self._window_open:
            self._arrived.append((disk, piece.first, piece.blocks))
        else:
            self._capture.clear_pending(disk, piece.first, piece.blocks)

    def _send(self, disk: int, piece: Piece, view: memoryview, until: _Countdown) -> None:
        """Sends a range; zeros travel as their length. `until` is told when it has arrived."""
        is_zero = hashing.is_zero(view)
        payload = frames.zeros_payload(piece.length) if is_zero else view
        flags = frames.FLAG_ZEROS if is_zero else 0
        self._outbox.put(Bulk(FrameType.RESYNC, disk, piece.offset, payload, len(payload), flags, until.one_less))
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
    """Does something when the last of its parts is done; parts end in two threads."""

    def __init__(self, count: int, last: Callable[[], None]) -> None:
        self._left, self._last = count, last
        self._lock = threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self._left += 1

    def one_less(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._last()
