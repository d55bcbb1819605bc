"""Is the image equal to the disk? Compared block by block by digest, at a quiet point that the probe itself can see."""

from __future__ import annotations

import time
from typing import Any

from rha.capture.capture import Capture
from rha.engine.compare import Comparer
from rha.engine.session import Session
from rha.errors import StateError
from rha.sync.blocks import BLOCK_BYTES, DiskReader
from rha.sync.plan import pieces
from rha.units import show_bytes

PASSES = 4  # over what still differs, for writes that were on their way
PAUSE_SECONDS = 1.0

Block = tuple[int, int]  # disk, block number


class Verification:
    """One run over all disks. Nothing is sent but digests, nothing is changed."""

    def __init__(self, capture: Capture, session: Session) -> None:
        self._capture, self._session = capture, session
        self.comparer = Comparer(session.outbox)
        self._aborted = ""

    def abort(self, why: str) -> None:
        self._aborted = why
        self.comparer.abort(why)

    def _check(self) -> None:
        if self._aborted:
            raise StateError("the verification was broken off", cause=self._aborted)

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
        found: set[Block] = set()
        for disk, device in enumerate(self._capture.devices):
            wanted = self._wanted(disk) if suspects is None else sorted(block for at, block in suspects if at == disk)
            with DiskReader(device.path, check=self._check) as reader:
                for piece in pieces(_runs_of(wanted, self._capture.blocks(disk)), device.bytes):
                    self._check()
                    buffer, view = reader.read(piece.offset, piece.length)
                    self.comparer.ask(disk, piece, buffer, view)
                    found |= self._take(reader, all=False)
                found |= self._take(reader, all=True)
        return found

    def _wanted(self, disk: int) -> list[int] | None:
        """All blocks but those of a spool, which the image does not follow; None: all."""
        spared = self._capture.spared_blocks(disk)
        left_out = {block for first, count in spared for block in range(first, first + count)}
        return [block for block in range(self._capture.blocks(disk)) if block not in left_out] if spared else None

    def _take(self, reader: DiskReader, *, all: bool) -> set[Block]:
        found: set[Block] = set()
        for disk, piece, buffer, _, flags in self.comparer.answered(all=all):
            found |= {(disk, piece.first + i) for i, differs in enumerate(flags) if differs}
            reader.release(buffer)
        return found

    def _result(self, names: list[str], suspects: set[Block], quiet: bool) -> dict[str, Any]:
        ranges = [
            {"disk": names[disk], "offset": piece.offset, "bytes": piece.length}
            for disk, device in enumerate(self._capture.devices)
            for piece in pieces(
                _runs_of(sorted(block for at, block in suspects if at == disk), self._capture.blocks(disk)),
                device.bytes,
            )
        ]
        spared = sum(count for i in range(len(names)) for _, count in self._capture.spared_blocks(i)) * BLOCK_BYTES
        compared = sum(device.bytes for device in self._capture.devices) - spared
        if not ranges:
            sentence = "disk and image are equal" + ("" if quiet else "; writes went on, so not at one single moment")
        elif quiet:
            sentence = f"{len(ranges)} ranges differ, and nothing was written meanwhile"
        else:
            sentence = f"{len(ranges)} ranges differ or were being written; stop the writer and verify again"
        return {
            "equal": not ranges,
            "quiet": quiet,
            "compared_bytes": compared,
            "differing": ranges if quiet else [],
            "busy": [] if quiet else ranges,
            "busy_ranges": 0 if quiet else len(ranges),
            "sentence": f"{sentence} (but for the spool of {show_bytes(spared)} on it)" if spared else sentence,
        }


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
