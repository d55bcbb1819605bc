"""A TCP link that can be cut."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_LINGER_ZERO = struct.pack("ii", 1, 0)  # close() sends a reset and drops what is under way


class Proxy:
    """Listens on `port` and passes everything on to another port of this host, until `cut`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.passed = 0  # bytes, both ways

    def cut(self) -> int:
        """Drops every connection, what is on its way included. Returns how many ends there were."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                end.shutdown(socket.SHUT_RDWR)
        return len(ends)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._ends += [near, far]
            pump = threading.Thread(target=self._pump, args=(near, far), daemon=True)
            self._threads.append(pump)
            pump.start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        """Both ways in one thread, until one end is gone."""
        other = {near: far, far: near}
        with near, far, contextlib.suppress(OSError):
            while True:
                for end in select.select([near, far], [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    other[end].sendall(data)
                    self.passed += len(data)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
