"""Where the capture of a scenario is now, read from the probe's own memory: no engine, no appliance is asked."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from proof.writers import Writer
from rha.capture import bpf, pins, shared

RING_FULL = 0  # enum rha_loss


class Position:
    """The end of the stream of a loaded probe. What is submitted before `now()` is called lies below its answer.

    The ring's first page is the reader's position, its second the kernel's (kernel/bpf/ringbuf.c).
    """

    def __init__(self, scenario: str) -> None:
        self._files = [bpf.get(pins.folder(scenario) / name) for name in ("ring", "state", "counters")]
        self._state = shared.view(self._files[1], shared.STATE, 1)[0]
        self._counters = shared.view(self._files[2], shared.COUNTERS, int(self._state["ncpus"]) * shared.MAX_DISKS)
        self._page = mmap.mmap(self._files[0], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)
        self._released = mmap.mmap(self._files[0], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def now(self) -> int:
        """LSN after the last record reserved."""
        return int(self._state["lsn_base"]) + int(struct.unpack_from("<Q", self._page)[0])

    def acknowledged(self) -> int:
        """LSN below which the engine has given the ring's space back, since the appliance has it on stable storage."""
        return int(self._state["lsn_base"]) + int(struct.unpack_from("<Q", self._released)[0])

    def overflows(self) -> int:
        """How many writes found the ring full and took their disk out of write order, or came after that."""
        return int(self._counters["lost"][:, RING_FULL].sum())

    def is_capturing(self) -> bool:
        """Every disk's writes go into the ring."""
        return all(int(disk["mode"]) == shared.MODE_DATA for disk in self._state["disk"][: int(self._state["ndisks"])])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            os.close(file)


class Acknowledged(NamedTuple):
    """Something durable on the master: `number` counts from 0; every image of an LSN from `lsn` on must hold it."""

    number: int
    lsn: int


class Ledger:
    """Acknowledgements, kept outside what is protected; any thread."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._lock = threading.Lock()
        self.entries: list[Acknowledged] = []

    def note(self, number: int) -> None:
        """To be called once `number` is acknowledged: the LSN is looked up now."""
        with self._lock:
            self.entries.append(Acknowledged(number, self._position.now()))

    def promised(self, lsn: int) -> set[int]:
        """What an image at this LSN must hold."""
        return {entry.number for entry in self.entries if entry.lsn <= lsn}


class Records(Writer):
    """A file of numbered lines, each fsynced and then noted in a ledger."""

    def __init__(self, path: Path, ledger: Ledger, *, pause: float = 0.001) -> None:
        super().__init__(pause)
        self._file = path.open("ab", buffering=0)
        self._ledger = ledger

    def write(self) -> None:
        self._file.write(b"%08d\n" % self.count)
        os.fsync(self._file.fileno())
        self._ledger.note(self.count)

    def close(self) -> None:
        self._file.close()
