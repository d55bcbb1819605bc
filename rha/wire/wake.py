"""A pipe by which other threads wake the one that waits for a socket (rha/wire/link.py, `wake_fd`)."""

from __future__ import annotations

import os
import threading


class Wake:
    """Open inside a `with` block. `set` from any thread; `clear` by the one that waits."""

    def __enter__(self) -> Wake:
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock, self._set = threading.Lock(), False
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        os.close(self._write)

    def set(self) -> None:
        with self._lock:
            if not self._set:
                self._set = True
                os.write(self._write, b"\0")

    def clear(self) -> None:
        with self._lock:
            if self._set:
                self._set = False
                os.read(self.fd, 1)
