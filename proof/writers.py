"""Writers for the protected disks: threads that write at random until stopped, and what they know to be durable."""

from __future__ import annotations

import mmap
import os
import random
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SECTOR = 512


class Writer(threading.Thread):
    """Writes from `with` on until the block is left. `pause`: seconds between two writes; `count`: writes so far."""

    def __init__(self, pause: float = 0.002, seed: int = 1) -> None:
        super().__init__(daemon=True)
        self.pause, self.count, self.draw = pause, 0, random.Random(seed)
        self._stop_now = threading.Event()
        self._failure: BaseException | None = None

    def write(self) -> None:
        """One write; in the thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what `write` used."""

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                self.write()
                self.count += 1
                self._stop_now.wait(self.pause)
        except BaseException as error:  # noqa: BLE001 - raised again where the test stands
            self._failure = error
        finally:
            self.close()

    def stop(self) -> None:
        """Ends it. Raises what it died of."""
        self._stop_now.set()
        self.join()
        if self._failure:
            raise self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_now.set()
        self.join()
        if self._failure and value is None:
            raise self._failure


class RawWriter(Writer):
    """Random blocks of `unit` bytes of a device, O_DIRECT, from memory that begins anywhere a device allows."""

    def __init__(
        self, device: str, *, longest: int = 256 << 10, pause: float = 0.002, seed: int = 1, unit: int = SECTOR
    ) -> None:
        super().__init__(pause, seed)
        self._unit = unit
        # zram, whose unit is a page, stores a page of memory however the write lies in it: it reads back wrong.
        self._misalign = [0, 0, 512, 2048] if unit == SECTOR else [0]
        self._fd = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self._bytes = os.lseek(self._fd, 0, os.SEEK_END)
        self._longest = longest
        self._memory = mmap.mmap(-1, longest + mmap.PAGESIZE)
        self._noise = self.draw.randbytes(1 << 20)

    def write(self) -> None:
        length = self._unit * self.draw.choice([1, 3, 8, 8, 8, 32, self._longest // self._unit])
        offset = self.draw.randrange((self._bytes - length) // self._unit + 1) * self._unit
        self.write_at(offset, length, self.draw.choice(self._misalign))

    def write_at(self, offset: int, length: int, misalign: int) -> None:
        """Writes `length` bytes that no other write has, from memory `misalign` bytes into a page."""
        start = self.draw.randrange(1 << 19)
        repeat = self._noise[start:] + self._noise
        content = (repeat * (length // len(repeat) + 1))[:length]
        self._memory[misalign : misalign + length] = content
        with memoryview(self._memory) as whole, whole[misalign : misalign + length] as part:
            done = os.pwritev(self._fd, [part], offset)
        assert done == length, f"{done} of {length} bytes written at {offset}"

    def close(self) -> None:
        os.close(self._fd)


class FileWriter(Writer):
    """Files in a folder: written, fsynced, written over, renamed, truncated, deleted."""

    def __init__(self, folder: Path, *, pause: float = 0.002, seed: int = 1) -> None:
        super().__init__(pause, seed)
        self._folder = folder

    def write(self) -> None:
        path = self._folder / f"file-{self.draw.randrange(40)}"
        match self.draw.randrange(10):
            case 0:
                path.unlink(missing_ok=True)
            case 1 if path.exists():
                os.truncate(path, self.draw.randrange(64 << 10))
            case 2 if path.exists():
                path.rename(self._folder / f"file-{self.draw.randrange(40)}")
            case _:
                self._append(path, self.draw.randbytes(self.draw.choice([100, 4096, 70_000, 300_000])))

    def _append(self, path: Path, data: bytes) -> None:
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(self.draw.randrange(1 << 18))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


class Records(Writer):
    """A file of numbered lines, each fsynced: `durable` holds (number, CLOCK_REALTIME after its fsync). A disk that is
    gone ends it."""

    def __init__(self, path: Path, *, pause: float = 0.001) -> None:
        super().__init__(pause)
        self._file = path.open("ab", buffering=0)
        self.durable: list[tuple[int, float]] = []

    def write(self) -> None:
        self._file.write(b"%08d\n" % self.count)
        os.fsync(self._file.fileno())
        self.durable.append((self.count, time.time()))

    def close(self) -> None:
        self._file.close()
