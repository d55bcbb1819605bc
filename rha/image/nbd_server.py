"""A small NBD server for disks that exist only as an answer to a question: read-only, fixed newstyle.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Structured replies and `base:allocation` are
there because qemu-img skips holes only with them. One thread per connection, one request at a time: the clients are
QEMU's block layer and libnbd, which open several connections (multi-conn) where they want more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from rha.errors import RhaError

_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_REQUEST_MAGIC, _SIMPLE_MAGIC, _CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME, _ABORT, _LIST, _INFO, _GO, _STRUCTURED, _LIST_CONTEXT, _SET_CONTEXT = 1, 2, 3, 6, 7, 8, 9, 10
_ACK, _SERVER, _INFO_REPLY, _CONTEXT_REPLY = 1, 2, 3, 4
_UNSUPPORTED, _INVALID, _UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_READ, _WRITE, _DISC, _FLUSH, _BLOCK_STATUS = 0, 1, 2, 3, 7
_FLAGS = 1 | 2 | 4 | 1 << 8  # has flags, read-only, flush, multi-conn
_DONE, _CHUNK_NONE, _CHUNK_DATA, _CHUNK_STATUS, _CHUNK_ERROR = 1, 0, 1, 5, 0x8001
_HOLE_AND_ZERO = 3
_CONTEXT, _CONTEXT_ID = b"base:allocation", 1
_MAX_OPTION_BYTES, MAX_REQUEST_BYTES = 4096, 32 << 20

_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_CHUNK = struct.Struct(">IHHQI")


class Export(Protocol):
    """A disk to be shown. `read` and `status` are called from several threads."""

    @property
    def bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> memoryview: ...

    def status(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths from `offset` on, and whether they read as zeros; at least one, may end early."""


class _Request(NamedTuple):
    flags: int
    type: int
    cookie: int
    offset: int
    length: int


class NbdServer:
    """Listens on a unix socket, which only root can open, from `start` to `stop`."""

    def __init__(self, path: Path, exports: dict[str, Export]) -> None:
        self.path, self._exports = path, exports
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()

    def start(self) -> None:
        """Raises OSError when the socket cannot be made."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        os.chmod(self.path, 0o600)
        self._listener.listen()
        threading.Thread(target=self._accept, name="nbd", daemon=True).start()

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # stopped
                return
            with self._lock:
                self._connections.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-client", daemon=True)
                self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # What a client does wrong, or its end, concerns this connection only.
        with contextlib.suppress(OSError, EOFError, struct.error), connection:
            client = _Client(connection, self._exports)
            if client.negotiate():
                while client.answer():
                    pass
        with self._lock:
            self._connections.discard(connection)
            self._threads.discard(threading.current_thread())

    def stop(self) -> None:
        """Ends all connections; when it returns, no export is asked any more. May be repeated."""
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        self.path.unlink(missing_ok=True)


class _Client:
    """One connection. Methods raise OSError or EOFError when it ends, struct.error when it talks nonsense."""

    def __init__(self, connection: socket.socket, exports: dict[str, Export]) -> None:
        self._socket, self._exports = connection, exports
        self._export: Export | None = None
        self._structured = self._context = False

    def _take(self, length: int) -> bytes:
        content = bytearray(length)
        view = memoryview(content)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(content)

    # Negotiation ----------------------------------------------------------------------------------------------

    def negotiate(self) -> bool:
        """True when the client has chosen an export."""
        self._socket.sendall(struct.pack(">QQH", _MAGIC, _OPTION_MAGIC, _FIXED_NEWSTYLE | _NO_ZEROES))
        (flags,) = struct.unpack(">I", self._take(4))
        while self._export is None:
            magic, option, length = _OPTION.unpack(self._take(_OPTION.size))
            if magic != _OPTION_MAGIC or length > _MAX_OPTION_BYTES:
                return False
            data = self._take(length)
            if option == _EXPORT_NAME:
                return self._export_name(data, flags)
            if option == _ABORT:
                self._reply(option, _ACK)
                return False
            self._option(option, data)
        return True

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._socket.sendall(_OPTION_REPLY.pack(_REPLY_MAGIC, option, kind, len(data)) + data)

    def _export_name(self, name: bytes, flags: int) -> bool:
        self._export = self._exports.get(name.decode(errors="replace"))
        if self._export is None:
            return False
        zeroes = b"" if flags & _NO_ZEROES else bytes(124)
        self._socket.sendall(struct.pack(">QH", self._export.bytes, _FLAGS) + zeroes)
        return True

    def _option(self, option: int, data: bytes) -> None:
        acts: dict[int, Callable[[int, bytes], None]] = {
            _LIST: self._list,
            _INFO: self._info,
            _GO: self._info,
            _STRUCTURED: self._use_structured,
            _LIST_CONTEXT: self._contexts,
            _SET_CONTEXT: self._contexts,
        }
        act = acts.get(option)
        if act:
            act(option, data)
        else:
            self._reply(option, _UNSUPPORTED)

    def _list(self, option: int, data: bytes) -> None:
        for name in self._exports:
            self._reply(option, _SERVER, struct.pack(">I", len(name)) + name.encode())
        self._reply(option, _ACK)

    def _info(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        export = self._exports.get(data[4 : 4 + length].decode(errors="replace"))
        if export is None:
            self._reply(option, _UNKNOWN)
            return
        self._reply(option, _INFO_REPLY, struct.pack(">HQH", 0, export.bytes, _FLAGS))
        self._reply(option, _INFO_REPLY, struct.pack(">HIII", 3, 512, 1 << 16, MAX_REQUEST_BYTES))
        self._reply(option, _ACK)
        if option == _GO:
            self._export = export

    def _use_structured(self, option: int, data: bytes) -> None:
        self._structured = True
        self._reply(option, _ACK)

    def _contexts(self, option: int, data: bytes) -> None:
        (length,) = struct.unpack_from(">I", data)
        if data[4 : 4 + length].decode(errors="replace") not in self._exports:
            self._reply(option, _UNKNOWN)
            return
        if not self._structured:
            self._reply(option, _INVALID)
            return
        at = 4 + length
        (count,) = struct.unpack_from(">I", data, at)
        names, at = [], at + 4
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            names.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        self._context = _CONTEXT in names
        if self._context or (option == _LIST_CONTEXT and (not names or b"base:" in names)):
            self._reply(option, _CONTEXT_REPLY, struct.pack(">I", _CONTEXT_ID) + _CONTEXT)
        self._reply(option, _ACK)

    # Transmission ---------------------------------------------------------------------------------------------

    def answer(self) -> bool:
        """Answers one request. False when the client takes its leave."""
        magic, *rest = _REQUEST.unpack(self._take(_REQUEST.size))
        request = _Request(*rest)
        if magic != _REQUEST_MAGIC or request.type == _DISC:
            return False
        if request.type == _WRITE:
            if request.length > MAX_REQUEST_BYTES:
                return False
            self._take(request.length)
        try:
            self._do(request)
        except RhaError:
            self._fail(request, errno.EIO)
        return True

    def _do(self, request: _Request) -> None:
        assert self._export is not None
        size = self._export.bytes
        inside = request.offset <= size and request.length <= size - request.offset
        if request.type == _FLUSH:
            self._done(request)
        elif request.type not in (_READ, _BLOCK_STATUS):
            self._fail(request, errno.EPERM)
        elif not inside or not request.length or (request.type == _READ and request.length > MAX_REQUEST_BYTES):
            self._fail(request, errno.EINVAL)
        elif request.type == _READ:
            self._read(request)
        elif self._context:
            self._status(request)
        else:
            self._fail(request, errno.EINVAL)

    def _read(self, request: _Request) -> None:
        assert self._export is not None
        data = self._export.read(request.offset, request.length)
        if self._structured:
            head = self._chunk(request, _CHUNK_DATA, 8 + len(data)) + struct.pack(">Q", request.offset)
        else:
            head = struct.pack(">IIQ", _SIMPLE_MAGIC, 0, request.cookie)
        self._socket.sendall(head)
        self._socket.sendall(data)

    def _status(self, request: _Request) -> None:
        assert self._export is not None
        rows, left = [], request.length
        for length, is_zero in self._export.status(request.offset, request.length):
            length = min(length, left)
            if length:
                rows.append(struct.pack(">II", length, _HOLE_AND_ZERO if is_zero else 0))
            left -= length
        if request.flags & 1 << 3:  # only one is wanted
            rows = rows[:1]
        body = struct.pack(">I", _CONTEXT_ID) + b"".join(rows)
        self._socket.sendall(self._chunk(request, _CHUNK_STATUS, len(body)) + body)

    def _chunk(self, request: _Request, kind: int, length: int) -> bytes:
        return _CHUNK.pack(_CHUNK_MAGIC, _DONE, kind, request.cookie, length)

    def _done(self, request: _Request) -> None:
        if self._structured:
            self._socket.sendall(self._chunk(request, _CHUNK_NONE, 0))
        else:
            self._socket.sendall(struct.pack(">IIQ", _SIMPLE_MAGIC, 0, request.cookie))

    def _fail(self, request: _Request, number: int) -> None:
        if self._structured:
            self._socket.sendall(self._chunk(request, _CHUNK_ERROR, 6) + struct.pack(">IH", number, 0))
        else:
            self._socket.sendall(struct.pack(">IIQ", _SIMPLE_MAGIC, number, request.cookie))
