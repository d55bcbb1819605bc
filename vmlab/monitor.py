"""QEMU's monitor (QMP): commands, and events to wait for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from rha.errors import VmError

ANSWER_SECONDS = 60.0


class Monitor:
    """A QMP connection. One command at a time; events are kept until someone waits for them."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over the socket; QEMU may not run yet: its greeting is awaited at the first command."""
        connection.settimeout(ANSWER_SECONDS)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()
        self._greeted = False
        self._events: list[dict[str, Any]] = []

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's return value.

        Raises VmError when QEMU refuses, or is gone.
        """
        with self._lock:
            if not self._greeted:
                self._receive()
                self._greeted = True
                self._ask("qmp_capabilities", {})
            return self._ask(command, arguments)

    def _ask(self, command: str, arguments: dict[str, Any]) -> Any:
        try:
            self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        except OSError as error:
            raise VmError(f"QEMU does not take {command}", cause=str(error)) from error
        while True:
            answer = self._receive()
            if "error" in answer:
                raise VmError(f"QEMU refused {command}", cause=answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def wait_event(self, name: str, fits: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any]:
        """The data of the first event of that name for which `fits(data)` holds; it is taken off the list.

        Raises VmError when it does not come within `timeout` seconds between two messages.
        """
        with self._lock:
            while True:
                for event in self._events:
                    if event["event"] == name and fits(event.get("data", {})):
                        self._events.remove(event)
                        return dict(event.get("data", {}))
                self._socket.settimeout(timeout)
                try:
                    self._receive()
                finally:
                    self._socket.settimeout(ANSWER_SECONDS)

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise VmError("QEMU's monitor is silent", cause=str(error)) from error
        if not line:
            raise VmError("QEMU has ended", cause="it closed its monitor")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self._events.append(message)
        return message

    def close(self) -> None:
        """May be called twice."""
        self._lines.close()
        self._socket.close()
