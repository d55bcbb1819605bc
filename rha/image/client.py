"""Writing and reading an image over NBD (libnbd), many requests in flight.

An object here belongs to one thread. Requests make progress only while a method of it runs: libnbd has no thread of its
own, and releases Python's lock while it waits.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import nbd
import numpy as np

from rha._native import ffi
from rha.errors import StorageError
from rha.hashing import Buffer
from rha.image.chain import DirectReader
from rha.image.direct import Counts, DirectFile
from rha.journal import extents
from rha.journal.extents import Table

DEPTH = 64  # requests in flight per connection; QEMU's server works on 16 of them at a time
# Measured over 64 KiB to 32 MiB, with the server keeping its buffers (rha/image/storage_daemon.py): 256 KiB to 1 MiB
# cost the same, and it keeps as many of them as it works on at a time.
WRITE_BYTES = 256 << 10
ZERO_BYTES = 1 << 30  # the wire's length field has 32 bits
STATUS_BYTES = 1 << 31  # the wire's length field has 32 bits
WAIT_MS = 1000

Start = Callable[[Callable[[Any], int]], object]


class _Link:
    """One connection. `in_flight` counts requests without an answer."""

    def __init__(self, socket: Path, export: str) -> None:
        self.handle: Any = nbd.NBD()
        self.handle.set_export_name(export)
        self.handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        self.in_flight = 0
        try:
            self.handle.connect_unix(str(socket))
        except nbd.Error as error:
            raise StorageError(
                f"image {export} cannot be reached", cause=str(error), hint="is its qemu-storage-daemon running?"
            ) from error


class _Image:
    """What writer and reader share: requests started on several connections, errors kept until they are asked for."""

    def __init__(
        self, socket: Path, export: str, *, name: str, connections: int, patience: float | None = None
    ) -> None:
        """`patience`: seconds without any answer after which what is asked has failed; None: there is no such limit."""
        self.name = name
        self._patience, self._answered = patience, time.monotonic()
        self._failure: StorageError | None = None
        self._links = [_Link(socket, export)]
        self._turn = 0
        if self._links[0].handle.can_multi_conn():
            self._links += [_Link(socket, export) for _ in range(connections - 1)]
        self.bytes = int(self._links[0].handle.get_size())  # size of the disk that the image holds

    def _link(self) -> _Link:
        """The connection whose turn it is, with room for one more request."""
        self._turn = (self._turn + 1) % len(self._links)
        link = self._links[self._turn]
        while link.in_flight >= DEPTH:
            self._wait(link)
        return link

    def _check_range(self, act: str, offset: int, length: int) -> None:
        """Refuses what reaches beyond the image: the server would say ENOSPC, as it does for a full disk."""
        self._raise_failure()
        if offset < 0 or length > self.bytes - offset:
            self._note(act, offset, errno.EINVAL, f"{length} bytes reach beyond the image's {self.bytes}")
            self._raise_failure()

    def _check_rows(self, act: str, rows: Table) -> None:
        """As `_check_range`, for all rows of a table."""
        lengths = rows["length"].astype(np.uint64)
        bad = np.flatnonzero((lengths > self.bytes) | (rows["offset"] > np.uint64(self.bytes) - lengths))
        for index in bad[:1].tolist():
            self._check_range(act, int(rows["offset"][index]), int(lengths[index]))

    def _failed(self, act: str, error: OSError) -> StorageError:
        """Keeps what went wrong with the image's own file; returns it, or what had gone wrong before."""
        self._note(act, None, error.errno or errno.EIO, f"{error.strerror} at {error.filename}")
        assert self._failure is not None
        return self._failure

    def _start(
        self, link: _Link, act: str, offset: int | None, start: Start, content: memoryview | None = None
    ) -> None:
        """Starts one request; `start` gets the completion callback. `content` is kept until then."""
        self._raise_failure()
        if self._patience is not None and not any(one.in_flight for one in self._links):
            self._answered = time.monotonic()
        kept = [content]

        def done(error: Any) -> int:
            kept.clear()
            link.in_flight -= 1
            self._answered = time.monotonic()
            if error.value:
                self._note(act, offset, error.value)
            return 1  # the request is retired

        try:
            start(done)
        except nbd.Error as error:
            self._note(act, offset, error.errnum, error.string)
            self._raise_failure()
        link.in_flight += 1

    def _wait(self, link: _Link) -> None:
        try:
            link.handle.poll(WAIT_MS)
        except nbd.Error as error:
            self._note("request", None, error.errnum, error.string)
            self._raise_failure()
        if self._patience is not None and time.monotonic() - self._answered > self._patience:
            self._note("request", None, errno.ETIMEDOUT, f"no answer for {self._patience:.0f} s")
            self._raise_failure()

    def drain(self) -> None:
        """Waits for every answer; buffers given before may change afterwards.

        Raises StorageError for the first request that failed.
        """
        for link in self._links:
            while link.in_flight:
                self._wait(link)
        self._raise_failure()

    def _note(self, act: str, offset: int | None, number: int, text: str = "") -> None:
        """Keeps the first failure; what follows it is mostly its consequence."""
        if self._failure:
            return
        place = "" if offset is None else f" at byte {offset}"
        code = errno.errorcode.get(number, str(number))
        cause, hint = f"{code}: {text or os.strerror(number)}", "the storage daemon's log says more"
        if number == errno.ENOSPC:
            cause, hint = "ENOSPC: the file system that holds the image is full", "df -h; make room, then restart"
        self._failure = StorageError(f"{act} failed on the image of disk {self.name}{place}", cause=cause, hint=hint)

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Drops the connections; requests without an answer are given up."""
        self._links.clear()  # libnbd closes a connection when its handle is collected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageWriter(_Image):
    """Writes one image. A failed writer stays failed: what was not written is not known, so it must be redone."""

    def __init__(
        self,
        socket: Path,
        name: str,
        *,
        connections: int = 2,
        direct: DirectFile | None = None,
        patience: float | None = None,
    ) -> None:
        """Connects to the writable export `name`. `direct`: the image's file, for what needs no daemon; closed with the
        writer. Raises StorageError."""
        super().__init__(socket, name, name=name, connections=connections, patience=patience)
        self.direct = direct

    def write_batch(self, batch: Table, data: memoryview) -> None:
        """Starts writing extents of this image that do not overlap, after everything started before. `data` as for
        `write`. Raises StorageError, for earlier requests too."""
        self.drain()
        done = self._write_directly(batch, data) if self.direct else np.zeros(len(batch), np.uint64)
        left = np.flatnonzero(done < batch["length"])  # zeros are among them
        for extent, written in zip(extents.rows(batch[left]), done[left].tolist(), strict=True):
            if extent.kind == extents.ZEROS:
                self.zero(extent.offset, extent.length)
            else:
                rest = data[extent.data + written : extent.data + extent.length]
                self.write(extent.offset + written, rest)

    def _write_directly(self, batch: Table, data: memoryview) -> Counts:
        assert self.direct is not None
        self._check_rows("write", batch)
        try:
            return self.direct.write(batch, data)
        except OSError as error:
            raise self._failed("write", error) from error

    def write(self, offset: int, buffer: Buffer) -> None:
        """Starts writing at a byte offset. The buffer must not change until `drain` or `flush`; writes that overlap
        need one of them in between.

        Raises StorageError, for earlier requests too.
        """
        view = memoryview(buffer).cast("B")
        self._check_range("write", offset, len(view))
        if self.direct:
            self.direct.written(offset, len(view))
        for at in range(0, len(view), WRITE_BYTES):
            piece = view[at : at + WRITE_BYTES]
            link = self._link()
            self._start(link, "write", offset + at, _write(link.handle, _lend(piece), offset + at), piece)

    def zero(self, offset: int, length: int) -> None:
        """Starts making a range read as zeros; it takes no space where the format can do that. Raises StorageError."""
        self._check_range("zero", offset, length)
        if self.direct:
            self.direct.zeroed(offset, length)
        for at in range(offset, offset + length, ZERO_BYTES):
            link = self._link()
            self._start(link, "zero", at, _zero(link.handle, min(ZERO_BYTES, offset + length - at), at))

    def flush(self) -> None:
        """Waits for every request and puts the image on stable storage. Raises StorageError."""
        self.drain()
        # The server says that one flush covers the writes of all connections (multi-conn), else there is only one.
        try:
            if self.direct:
                self.direct.sync()
            self._start(self._links[0], "flush", None, self._links[0].handle.aio_flush)
            self.drain()
            if self.direct:
                self.direct.flushed()
        except OSError as error:
            self._note("flush", None, error.errno or errno.EIO)
            self._raise_failure()

    def sync_ahead(self) -> None:
        """Puts on stable storage what the page cache holds of the image now; the one method that another thread may
        call while this writer works. Does not replace `flush`. Raises StorageError."""
        if self.direct:
            try:
                self.direct.sync()
            except OSError as error:
                raise StorageError(
                    f"sync failed on the image of disk {self.name}", cause=str(error), hint="dmesg says more"
                ) from error

    def close(self) -> None:
        super().close()
        if self.direct:
            self.direct.close()


class ImageReader(_Image):
    """Reads one image through its read-only export, beside a writer."""

    def __init__(
        self,
        socket: Path,
        name: str,
        *,
        connections: int = 1,
        beside: ImageWriter | None = None,
        aside: ImageWriter | None = None,
        patience: float | None = None,
    ) -> None:
        """Connects to the read-only export of image `name`. `beside`: its writer; then `read_rows`, of what is not
        being written, needs no daemon where the writer needs none. `aside`: its writer; then `read` and `read_into`
        need none, whatever is being written. Raises StorageError."""
        super().__init__(socket, read_only_export(name), name=name, connections=connections, patience=patience)
        self._writer = beside
        self._direct = DirectReader(aside.direct) if aside and aside.direct else None

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from a byte offset. Raises StorageError."""
        content = bytearray(length)
        self.read_into(offset, content)
        return content

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fills the buffer from a byte offset. Raises StorageError."""
        view = memoryview(buffer).cast("B")
        done = self._read_aside(offset, view)
        if done < len(view):
            self.fetch(offset + done, view[done:])
            self.drain()

    def _read_aside(self, offset: int, buffer: memoryview) -> int:
        """How many bytes did not need the daemon."""
        self._check_range("read", offset, len(buffer))
        if self._direct is None:
            return 0
        try:
            return self._direct.read(offset, buffer)
        except OSError as error:
            raise self._failed("read", error) from error

    def close(self) -> None:
        super().close()
        if self._direct:
            self._direct.close()

    def fetch(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Starts filling the buffer; it is filled after `drain`. Raises StorageError, for earlier requests too."""
        view = memoryview(buffer).cast("B")
        self._check_range("read", offset, len(view))
        for at in range(0, len(view), WRITE_BYTES):
            piece = view[at : at + WRITE_BYTES]
            link = self._link()
            self._start(link, "read", offset + at, _read(link.handle, _lend(piece), offset + at), piece)

    def read_rows(self, rows: Table, buffer: memoryview) -> None:
        """Fills the buffer with ranges (rows with `offset` and `length`), one behind the other. Raises StorageError."""
        self._check_rows("read", rows)
        done = self._read_directly(rows, buffer)
        ends = np.cumsum(rows["length"], dtype=np.uint64)
        for index in np.flatnonzero(done < rows["length"]).tolist():
            had, end = int(done[index]), int(ends[index])
            length = int(rows["length"][index])
            self.fetch(int(rows["offset"][index]) + had, buffer[end - length + had : end])
        self.drain()

    def _read_directly(self, rows: Table, buffer: memoryview) -> Counts:
        if self._writer is None or self._writer.direct is None:
            return np.zeros(len(rows), np.uint64)
        try:
            return self._writer.direct.read(rows, buffer)
        except OSError as error:
            raise self._failed("read", error) from error

    def used(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts (offset, length) of a range that do not surely read as zeros, ascending. Raises StorageError."""
        self._check_range("map", offset, length)
        end = offset + length
        while offset < end:
            for count, is_zero in self._status(offset, min(end - offset, STATUS_BYTES)):
                count = min(count, end - offset)
                if count and not is_zero:
                    yield offset, count
                offset += count

    def _status(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from an offset on, and whether they read as zeros: the server's answer may be shorter or longer."""
        found: list[tuple[int, bool]] = []

        def take(_context: str, _offset: int, rows: list[int], _error: object) -> int:
            found.extend((rows[at], bool(rows[at + 1] & nbd.STATE_ZERO)) for at in range(0, len(rows), 2))
            return 0

        handle = self._links[0].handle
        if not handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION):
            return [(length, False)]
        try:
            handle.block_status(length, offset, take)
        except nbd.Error as error:
            self._note("map", offset, error.errnum, error.string)
            self._raise_failure()
        return found or [(length, False)]


def read_only_export(name: str) -> str:
    """Export name of an image's read-only twin; disk names hold no colon."""
    return f"ro:{name}"


def _lend(piece: memoryview) -> nbd.Buffer:
    """The same memory for libnbd, without a reference to its owner, whom the caller keeps until the request is done.

    libnbd 1.14 (Debian 12) never lets go of the view that it makes of what it is given: an appliance would keep every
    byte that went through it. What it keeps of this one is a pointer and a length.
    """
    pointer = ffi.cast("char *", ffi.from_buffer(piece))
    return nbd.Buffer.from_buffer(ffi.buffer(pointer, len(piece)))


def _write(handle: Any, piece: nbd.Buffer, offset: int) -> Start:
    return lambda done: handle.aio_pwrite(piece, offset, done)


def _read(handle: Any, piece: nbd.Buffer, offset: int) -> Start:
    return lambda done: handle.aio_pread(piece, offset, done)


def _zero(handle: Any, length: int, offset: int) -> Start:
    return lambda done: handle.aio_zero(length, offset, done)
