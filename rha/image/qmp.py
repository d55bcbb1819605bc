"""QMP, QEMU's JSON line protocol, one command at a time.

Spoken here directly: qemu.qmp is asyncio, and one blocking client needs less code than the bridge to it.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from rha.errors import StorageError


class Qmp:
    """A connection whose greeting has been read: the other side's main loop runs."""

    def __init__(self, connection: socket.socket, *, timeout: float) -> None:
        """Takes over a connected socket. Waits for the greeting and leaves negotiation mode.

        Raises EOFError when the other side ends, TimeoutError when it says nothing for `timeout` seconds.
        """
        connection.settimeout(timeout)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._receive()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's return value.

        Raises StorageError when it is refused, EOFError or OSError when the other side is gone.
        """
        message = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._receive()
            if "error" in answer:
                raise StorageError(f"the storage daemon refused {command}", cause=answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise EOFError("the storage daemon closed its QMP connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
