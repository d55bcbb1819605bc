"""Questions to a daemon on this host: one JSON line in, one out, over a unix socket that only root can open."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rha.decoding import from_json
from rha.errors import Exit, HostError, NetworkError, RhaError

Handler = Callable[..., Any]
RUN_DIR = Path(os.environ.get("RHA_RUN_DIR", "/run/rha"))  # the variable is for a second instance on one host
MAX_LINE_BYTES = 4 << 20


class _Answer(msgspec.Struct, kw_only=True):
    """`value` is valid iff `error` is None."""

    value: Any = None
    error: str | None = None
    cause: str = ""
    hint: str = ""
    code: int = 0


class _Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline(MAX_LINE_BYTES)
        if line:
            self.wfile.write(msgspec.json.encode(self._answer(line)) + b"\n")

    def _answer(self, line: bytes) -> _Answer:
        try:
            words = from_json(line, dict[str, Any])
            verb = self.server.handlers[words.pop("verb")]  # type: ignore[attr-defined]
            return _Answer(value=verb(**words))
        except RhaError as error:
            return _Answer(error=error.what, cause=error.cause, hint=error.hint, code=int(error.code))
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            return _Answer(error="the daemon does not know this request", cause=repr(error), code=int(Exit.USAGE))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers
        super().__init__(str(path), _Request)


def answers(path: Path) -> bool:
    """True when a daemon listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextlib.contextmanager
def serve(path: Path, handlers: dict[str, Handler]) -> Iterator[None]:
    """Answers `verb` requests by `handlers[verb](**words)`, in threads, until the block is left.

    Raises NetworkError when another daemon listens there already. A socket left by a killed daemon is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if answers(path):
        raise NetworkError(f"{path} is taken", cause="another daemon answers on it", hint="rha status")
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        server = _Server(path, handlers)
    finally:
        os.umask(mask)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def call(path: Path, verb: str, *, timeout: float | None = 10.0, **words: Any) -> Any:
    """Asks a daemon. Returns the plain (JSON) value. `timeout` in seconds; None waits as long as the daemon lives.

    Raises HostError when this user may not ask, NetworkError when nobody answers (with Exit.UNKNOWN once the question
    was sent), and the daemon's own refusal as RhaError.
    """
    with _connected(path, timeout) as peer:
        try:
            with peer.makefile("rwb") as stream:
                stream.write(msgspec.json.encode({"verb": verb, **words}) + b"\n")
                stream.flush()
                line = stream.readline()
        except OSError as error:  # it may have begun what was asked
            cause = f"the question was sent, then: {error}"
            raise NetworkError(f"no answer from {path}", cause=cause, hint="rha status", code=Exit.UNKNOWN) from error
    if not line:
        raise NetworkError(f"the daemon on {path} hung up", cause="no answer before the end", code=Exit.UNKNOWN)
    answer = from_json(line, _Answer)
    if answer.error is not None:
        raise RhaError(answer.error, cause=answer.cause, hint=answer.hint, code=Exit(answer.code))
    return answer.value


def _connected(path: Path, timeout: float | None) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(timeout)
        peer.connect(str(path))
    except PermissionError as error:
        peer.close()
        raise HostError(f"not allowed to ask {path}", cause="only root may", hint="sudo rha …") from error
    except OSError as error:
        peer.close()
        hint = "systemctl status rha-engine@NAME rha-appliance"
        raise NetworkError(f"no daemon answers on {path}", cause=str(error), hint=hint) from error
    return peer


def sockets(run_dir: Path = RUN_DIR) -> list[Path]:
    """The control sockets of this host's daemons: `engine-SCENARIO.sock`, `appliance.sock`."""
    return sorted(run_dir.glob("*.sock"))
