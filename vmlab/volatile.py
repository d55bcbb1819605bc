"""A disk whose write cache is lost when the power is: what a machine wrote and did not flush survives by chance.

QEMU has it over NBD (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, fixed newstyle). Writes go to
a cache; a flush takes a while, as a drive's does, and puts into the file what was answered before it. After a power
cut each write that no flush has covered is lost, or kept, or kept in some of its sectors, each by the seed: a drive
writes its cache out in any order, whole sectors at a time. A killed QEMU with a file would lose nothing, since this
host keeps its page cache.

    store.fail()          # from here on nothing is done and nothing answered
    machine.cut_power()
    store.settle()        # the file is what survives
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from vmlab.disk import SECTOR

FLUSH_SECONDS = 0.03
CACHE_BYTES = 256 << 20  # more than this is written out without a flush, the oldest first: no drive has more

_GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 1 | 2)  # fixed newstyle, no zeroes
_OPTION, _REPLY, _REQUEST = struct.Struct(">QII"), struct.Struct(">QIII"), struct.Struct(">IHHQQI")
_OPTION_REPLY, _SIMPLE_REPLY = 0x3E889045565A9, 0x67446698
_ABORT, _GO, _UNSUPPORTED, _ACK, _INFO = 2, 7, 0x80000001, 1, 3
_READ, _WRITE, _DISCONNECT, _FLUSH, _FUA = 0, 1, 2, 3, 1
_FLAGS = 1 | 4 | 8  # has flags, flush, FUA
_INVALID = 22


class Write(NamedTuple):
    """In the cache. `offset` in bytes."""

    offset: int
    data: bytes


class Fate(NamedTuple):
    """What became of the writes in the cache when the power went."""

    lost: int
    kept: int
    torn: int


class VolatileDisk:
    """`file` is the platter; `socket` is where QEMU connects. One machine at a time."""

    def __init__(self, folder: Path, name: str, size: int, seed: int) -> None:
        self.file, self.socket, self.bytes = folder / f"{name}.raw", folder / f"{name}.nbd", size
        self._draw = random.Random(seed)
        self._platter = _sparse(self.file, size)
        self._shown = _sparse(folder / f"{name}.cache", size)  # the platter with the cache over it
        self._cache: deque[Write] = deque()
        self._cached = 0
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._has_failed, self._is_off = threading.Event(), threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        self._peers: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="volatile", daemon=True)
        self._accepting.start()

    # Power ----------------------------------------------------------------------------------------------------

    def fail(self, patience_seconds: float = 0.0, writes: int = 1) -> None:
        """The power is going: what is asked from now on is neither done nor answered. It waits so long for a moment in
        which so many writes are in the cache, and as long again for one with any."""
        with self._written:
            if not self._written.wait_for(lambda: len(self._cache) >= writes, patience_seconds):
                self._written.wait_for(lambda: self._cache, patience_seconds)
            self._has_failed.set()

    def settle(self) -> Fate:
        """The machine is off. The file then holds what survives, and the disk works again."""
        self._is_off.set()
        for peer in self._peers:
            peer.join()
        self._peers.clear()
        with self._lock:
            fates = {"lost": 0, "kept": 0, "torn": 0}
            writes, self._cached = list(self._cache), 0
            self._cache.clear()
            for write in writes:
                fate = self._draw.choices(("lost", "kept", "torn"), (5, 3, 2))[0]
                fates[fate] += 1
                if fate == "kept":
                    os.pwrite(self._platter, write.data, write.offset)
                elif fate == "torn":
                    self._tear(write)
            for write in writes:
                os.pwrite(self._shown, os.pread(self._platter, len(write.data), write.offset), write.offset)
            self._has_failed.clear()
            self._is_off.clear()
            return Fate(**fates)

    def _tear(self, write: Write) -> None:
        for at in range(0, len(write.data), SECTOR):
            if self._draw.random() < 0.5:
                os.pwrite(self._platter, write.data[at : at + SECTOR], write.offset + at)

    # Requests -------------------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:
            return os.pread(self._shown, length, offset)

    def write(self, offset: int, data: bytes, *, through: bool = False) -> None:
        """`through`: on the platter when this returns (FUA)."""
        with self._lock:
            if self._has_failed.is_set():
                return
            os.pwrite(self._shown, data, offset)
            self._cache.append(Write(offset, data))
            self._cached += len(data)
            self._written.notify_all()
            while self._cache and (through or self._cached > CACHE_BYTES):
                self._write_out()  # in order, so that an older write never goes over this one

    def flush(self) -> None:
        with self._lock:
            wanted = self._cache[-1] if self._cache else None
        time.sleep(FLUSH_SECONDS if wanted else 0)
        with self._lock:
            if any(write is wanted for write in self._cache) and not self._has_failed.is_set():
                while self._write_out() is not wanted:
                    pass

    def _write_out(self) -> Write:
        oldest = self._cache.popleft()
        os.pwrite(self._platter, oldest.data, oldest.offset)
        self._cached -= len(oldest.data)
        return oldest

    # NBD ------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                peer, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(peer,), name="volatile-nbd", daemon=True)
                self._peers.append(thread)
                thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError, EOFError):  # a machine whose power was cut says nothing
            peer.sendall(_GREETING)
            _exactly(peer, 4)
            if self._negotiated(peer):
                while self._served(peer):
                    pass

    def _negotiated(self, peer: socket.socket) -> bool:
        while True:
            _, option, length = _OPTION.unpack(_exactly(peer, _OPTION.size))
            _exactly(peer, length)
            if option == _GO:
                information = struct.pack(">HQH", 0, self.bytes, _FLAGS)
                peer.sendall(_REPLY.pack(_OPTION_REPLY, option, _INFO, len(information)) + information)
            answer = _ACK if option in (_GO, _ABORT) else _UNSUPPORTED
            peer.sendall(_REPLY.pack(_OPTION_REPLY, option, answer, 0))
            if answer == _ACK:
                return bool(option == _GO)

    def _served(self, peer: socket.socket) -> bool:
        """One request. False: the machine has gone."""
        _, flags, kind, cookie, offset, length = _REQUEST.unpack(_exactly(peer, _REQUEST.size))
        data, error = b"", 0
        if kind == _DISCONNECT:
            return False
        if kind == _READ:
            data = self.read(offset, length)
        elif kind == _WRITE:
            self.write(offset, _exactly(peer, length), through=bool(flags & _FUA))
        elif kind == _FLUSH:
            self.flush()
        else:
            error = _INVALID
        with self._lock:
            has_failed = self._has_failed.is_set()
        if has_failed:
            self._is_off.wait()
            return False
        peer.sendall(struct.pack(">IIQ", _SIMPLE_REPLY, error, cookie) + data)
        return True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for file in (self._platter, self._shown):
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _sparse(path: Path, size: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.ftruncate(file, size)
    return file


def _exactly(peer: socket.socket, length: int) -> bytes:
    """Raises EOFError when the peer ends before."""
    found = bytearray()
    while len(found) < length:
        part = peer.recv(min(1 << 20, length - len(found)))
        if not part:
            raise EOFError
        found += part
    return bytes(found)
