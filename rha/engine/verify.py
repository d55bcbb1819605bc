"""Is the image equal to the disk? Compared block by block by digest, at a quiet point that the probe itself can see.

Free space that no sync has sent is not compared: the appliance says which blocks that concerns, and those of which a
part was written since are compared once more, sector by sector.
"""

from __future__ import annotations

import mmap
import time
from bisect import bisect_left
from typing import Any

from rha.capture.capture import Capture
from rha.capture.device import Device
from rha.engine.compare import Comparer
from rha.engine.session import Session
from rha.sync import freespace
from rha.sync.blocks import BLOCK_BYTES, DIFFERS, PARTLY_UNSENT, SECTOR_BYTES, UNSENT, DiskReader
from rha.sync.plan import Piece, pieces
from rha.units import show_bytes

PASSES = 4  # over what still differs, for writes that were on their way
PAUSE_SECONDS = 1.0

Block = tuple[int, int]  # disk, block number
_SECTORS = BLOCK_BYTES // SECTOR_BYTES


class Verification:
    """One run over all disks. Nothing is sent but digests, nothing is changed."""

    def __init__(self, capture: Capture, session: Session) -> None:
        self._capture = capture
        self.comparer: Comparer[mmap.mmap] = Comparer(session.outbox, "the verification")
        self.abort, self._check = self.comparer.abort, self.comparer.check
        self._unsent_bytes = self._reserved_bytes = 0

    def run(self, names: list[str]) -> dict[str, Any]:
        """`equal`: no block differs. `quiet`: no write was captured during the last pass, so the answer holds for one
        moment; without it a differing block may be one that was just being written, and is listed as busy.

        Raises StateError, DeviceError.
        """
        suspects: set[Block] | None = None
        quiet = False
        for attempt in range(PASSES):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            before = self._capture.ring.producer
            suspects = self._compare(suspects)
            quiet = self._capture.ring.producer == before
            if not suspects or (quiet and attempt):
                break
        return self._result(names, suspects or set(), quiet)

    def _compare(self, suspects: set[Block] | None) -> set[Block]:
        """The blocks that differ, of those or of all; what was never sent does not count."""
        found: set[Block] = set()
        for disk, device in enumerate(self._capture.devices):
            wanted = self._wanted(disk) if suspects is None else sorted(block for at, block in suspects if at == disk)
            with DiskReader(device.path, check=self._check) as reader:
                flags = self._flags(disk, wanted, reader, BLOCK_BYTES)
                if suspects is None:
                    self._note_unsent(device, sorted(block for block, flag in flags.items() if flag == UNSENT))
                partly = sorted(block for block, flag in flags.items() if flag == PARTLY_UNSENT)
                sectors = self._flags(disk, partly, reader, SECTOR_BYTES) if partly else {}
            found |= {(disk, block) for block, flag in flags.items() if flag == DIFFERS}
            found |= {(disk, sector // _SECTORS) for sector, flag in sectors.items() if flag == DIFFERS}
        return found

    def _wanted(self, disk: int) -> list[int] | None:
        """All blocks but those of a spool, which the image does not follow; None: all."""
        spared = self._capture.spared_blocks(disk)
        left_out = {block for first, count in spared for block in range(first, first + count)}
        return [block for block in range(self._capture.blocks(disk)) if block not in left_out] if spared else None

    def _note_unsent(self, device: Device, blocks: list[int]) -> None:
        """Of what was never sent a part may belong to files by now that reserved it and wrote nothing there. A write
        that was lost there would look the same, so that part has a figure of its own."""
        if not blocks:
            return
        free = freespace.whole_blocks(freespace.look(device, self._check).ranges)
        still = sum(bisect_left(blocks, first + count) - bisect_left(blocks, first) for first, count in free)
        self._unsent_bytes += len(blocks) * BLOCK_BYTES
        self._reserved_bytes += (len(blocks) - still) * BLOCK_BYTES

    def _flags(self, disk: int, wanted: list[int] | None, reader: DiskReader, unit: int) -> dict[int, int]:
        """How parts of `unit` bytes differ, by number; equal ones are left out. `wanted`: blocks; None: all."""
        found: dict[int, int] = {}
        runs = _runs_of(wanted, self._capture.blocks(disk))
        for piece, buffer, view in reader.ahead(pieces(runs, self._capture.devices[disk].bytes)):
            self._check()
            self.comparer.ask(disk, piece, buffer, view, unit)
            self._take(found, reader, all=False)
        self._take(found, reader, all=True)
        return found

    def _take(self, found: dict[int, int], reader: DiskReader, *, all: bool) -> None:
        for _, unit, piece, buffer, _, flags in self.comparer.answered(all=all):
            first = piece.offset // unit
            found.update((first + i, flag) for i, flag in enumerate(flags) if flag)
            reader.release(buffer)

    def _result(self, names: list[str], suspects: set[Block], quiet: bool) -> dict[str, Any]:
        ranges = [
            {"disk": names[disk], "offset": piece.offset, "bytes": piece.length}
            for disk in range(len(self._capture.devices))
            for piece in self._pieces_of(disk, suspects)
        ]
        spared = sum(count for i in range(len(names)) for _, count in self._capture.spared_blocks(i)) * BLOCK_BYTES
        compared = sum(device.bytes for device in self._capture.devices) - spared
        sentence = _sentence(len(ranges), quiet) + _left_out(self._unsent_bytes, self._reserved_bytes)
        return {
            "equal": not ranges,
            "quiet": quiet,
            "compared_bytes": compared - self._unsent_bytes,
            "left_out_bytes": self._unsent_bytes,
            "left_out_used_bytes": self._reserved_bytes,
            "differing": ranges if quiet else [],
            "busy": [] if quiet else ranges,
            "busy_ranges": 0 if quiet else len(ranges),
            "sentence": f"{sentence} (but for the spool of {show_bytes(spared)} on it)" if spared else sentence,
        }

    def _pieces_of(self, disk: int, suspects: set[Block]) -> list[Piece]:
        wanted = sorted(block for at, block in suspects if at == disk)
        return list(pieces(_runs_of(wanted, self._capture.blocks(disk)), self._capture.devices[disk].bytes))


def _sentence(ranges: int, quiet: bool) -> str:
    if not ranges:
        return "disk and image are equal" + ("" if quiet else "; writes went on, so not at one single moment")
    if quiet:
        return f"{ranges} ranges differ, and nothing was written meanwhile"
    return f"{ranges} ranges differ or were being written; stop the writer and verify again"


def _left_out(count: int, reserved: int) -> str:
    if not count:
        return ""
    now = f", {show_bytes(reserved)} of it belong to files now or cannot be asked about" if reserved else ""
    return f"; {show_bytes(count)} were free space when the disk was synced and were never sent{now}"


def _runs_of(wanted: list[int] | None, blocks: int) -> Any:
    """`next_run` for sync.plan.pieces over a sorted list of blocks; None: all of them."""
    if wanted is None:
        return lambda start, longest: (start, min(longest, blocks - start)) if start < blocks else None
    flags = bytearray(blocks)
    for block in wanted:
        flags[block] = 1

    def next_run(start: int, longest: int) -> tuple[int, int] | None:
        first = flags.find(1, start)
        if first < 0:
            return None
        end = flags.find(0, first)
        return first, min(longest, (end if end >= 0 else blocks) - first)

    return next_run
