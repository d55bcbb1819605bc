"""The guest's end: runs the commands that come over the virtio port. Only the standard library, started with -S.

One JSON object a line, both ways. First, at each start: {"boot": the kernel's boot id}. Request: {"id", "argv", "stdin"
(base64), "timeout" (seconds)}. Answer: {"id", "code", "stdout", "stderr" (base64)}, in the order in which commands end;
`code` is null when the time was over, minus the signal's number when one ended it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NOT_FOUND = 127  # as a shell says it


class Agent:
    """Requests run side by side; answers are written one at a time."""

    def __init__(self, port: str) -> None:
        self._port = os.open(port, os.O_RDWR | os.O_CLOEXEC)
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Until the port is gone."""
        with open(_BOOT_ID) as boot_id:
            self._send({"boot": boot_id.read().strip()})
        with os.fdopen(os.dup(self._port), "rb") as lines:
            for line in lines:
                threading.Thread(target=self._answer, args=(json.loads(line),)).start()

    def _answer(self, request: dict[str, object]) -> None:
        code, stdout, stderr = _run(request)
        answer = {"stdout": base64.b64encode(stdout).decode(), "stderr": base64.b64encode(stderr).decode()}
        self._send({"id": request["id"], "code": code, **answer})

    def _send(self, message: dict[str, object]) -> None:
        data = memoryview(b"\n" + json.dumps(message).encode() + b"\n")  # the first newline ends a torn line
        with self._lock:
            while data:
                data = data[os.write(self._port, data) :]


def _run(request: dict[str, object]) -> tuple[int | None, bytes, bytes]:
    argv = [str(word) for word in request["argv"]]  # type: ignore[attr-defined]
    try:
        done = subprocess.run(
            argv,
            input=base64.b64decode(str(request["stdin"])),
            capture_output=True,
            timeout=float(str(request["timeout"])),
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        return None, error.stdout or b"", error.stderr or b""
    except OSError as error:
        return _NOT_FOUND, b"", str(error).encode()
    return done.returncode, done.stdout, done.stderr


if __name__ == "__main__":
    Agent(sys.argv[1]).serve()
