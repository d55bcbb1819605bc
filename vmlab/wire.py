"""The host's end of the agent's port (vmlab/agent.py): calls, and the news that a system has booted."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import threading
import time
from typing import Any, NamedTuple

from rha.errors import StateError

GRACE_SECONDS = 30.0  # beyond a command's own limit: an emulated machine may be busy elsewhere


class Answer(NamedTuple):
    """What a command in the machine ended with. `code`: None when its time was over, negative for a signal."""

    code: int | None
    stdout: bytes
    stderr: bytes


class Gone(StateError):
    """The machine was cut off, or booted again, before it answered."""


class Wire:
    """One life of one QEMU. Any thread may call; a thread of its own reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._boots: list[str] = []  # boot ids, in order
        self._pending: set[int] = set()
        self._answers: dict[int, Answer] = {}
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="lab-wire", daemon=True)
        self._reader.start()

    def boots(self) -> int:
        """How many times an agent has announced itself."""
        with self._changed:
            return len(self._boots)

    def wait_boot(self, after: int, timeout: float) -> bool:
        """Waits for the boot that follows the first `after` ones. False when the time is over.

        Raises Gone when the machine ends.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._boots) > after, timeout)
            if self._closed and len(self._boots) <= after:
                raise Gone("the machine ended while it booted", cause="QEMU closed the agent's port")
            return len(self._boots) > after

    def call(self, argv: list[str], stdin: bytes, timeout: float) -> Answer:
        """Runs a command in the machine and waits for its end.

        Raises Gone when the machine ends or boots again meanwhile, StateError when it does not answer at all.
        """
        number = next(self._numbers)
        request = {"id": number, "argv": argv, "stdin": base64.b64encode(stdin).decode(), "timeout": timeout}
        with self._changed:
            self._pending.add(number)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise Gone(f"{argv[0]} could not be started: the machine is off", cause=str(error)) from error
        with self._changed:
            self._changed.wait_for(lambda: self._is_over(number), timeout + GRACE_SECONDS)
            answer, still_pending = self._answers.pop(number, None), number in self._pending
            self._pending.discard(number)
        if answer:
            return answer
        if still_pending and not self._closed:
            raise StateError("the machine does not answer", cause=f"{' '.join(argv)}: nothing after {timeout:.0f} s")
        raise Gone("the machine went away", cause=f"while it ran {' '.join(argv)}")

    def _is_over(self, number: int) -> bool:
        return self._closed or number not in self._pending

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    self._take(line)
            except OSError:
                pass  # the same as its end
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, line: bytes) -> None:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            return  # an empty line, or one torn by a reboot: its caller learns that from the next boot
        with self._changed:
            if "boot" in message:
                self._take_boot(str(message["boot"]))
            elif message["id"] in self._pending:
                self._pending.discard(message["id"])
                streams = (base64.b64decode(message[name]) for name in ("stdout", "stderr"))
                self._answers[message["id"]] = Answer(message["code"], *streams)
            self._changed.notify_all()

    def _take_boot(self, boot_id: str) -> None:
        self._pending.clear()  # an agent that starts knows nothing of earlier requests
        if not self._boots or self._boots[-1] != boot_id:
            self._boots.append(boot_id)

    def close(self) -> None:
        """Ends the reader. Calls under way raise Gone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            time.sleep(0)  # already closed by QEMU's end
        self._reader.join()
        self._socket.close()
