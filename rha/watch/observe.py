"""The observer: a small daemon on a third host that says what it sees when an appliance asks (`rha observe`).

It knows nothing and keeps nothing: no scenarios, no votes. Its whole worth is that it stands elsewhere.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from rha import program, schema
from rha.decoding import from_json
from rha.errors import Exit, RhaError
from rha.scenario import decode_unit
from rha.schema import Clean, Mistake
from rha.watch.ask import ask_all, kinds, longest
from rha.watch.observers import MAX_LINE_BYTES, PROTOCOL, Answer, Question
from rha.wire import tls

HANDSHAKE_SECONDS = 10.0
MAX_CHECKS, MAX_CHECK_SECONDS, MAX_AT_ONCE = 64, 300.0, 32


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The whole file. `certificate`: an appliance's (`rha pki issue appliance NAME`)."""

    listen: str = "0.0.0.0:7421"
    ca: str
    certificate: str
    key: str
    scripts: str = str(program.FOLDER)


def load(path: Path) -> Config:
    """The configuration of a file. Raises ConfigError whose cause lists every mistake with its path."""
    return schema.load(path, Config, _rules, hint="compare with docs/observer.toml")


def _rules(clean: Clean) -> Iterator[Mistake]:
    for field in ("ca", "certificate", "key", "scripts"):
        text = clean.get(field)
        if text is not None and not text.startswith("/"):
            yield Mistake(field, f"{text!r} is not an absolute path")


class Observer:
    """Serves until `stop`. Raises ConfigError when a certificate is unusable."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context = tls.server_context(Path(config.ca), Path(config.certificate), Path(config.key))
        self._kinds = kinds(Path(config.scripts))
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(MAX_AT_ONCE)

    def stop(self) -> None:
        self._stopping.set()

    def listen(self) -> None:
        """Raises NetworkError when the address cannot be listened on."""
        with tls.listen(self._config.listen) as listener:
            listener.settimeout(0.5)
            print(f"rha observe: listening on {self._config.listen}", flush=True)
            while not self._stopping.is_set():
                try:
                    raw, address = listener.accept()
                except TimeoutError:
                    continue
                if self._slots.acquire(blocking=False):
                    threading.Thread(target=self._serve, args=(raw, address), name="observe", daemon=True).start()
                else:
                    raw.close()  # who asks too much is not answered, and votes unknown

    def _serve(self, raw: socket.socket, address: Any) -> None:
        peer = f"{address[0]}:{address[1]}"
        try:
            sock, _ = tls.accept(raw, self._context, HANDSHAKE_SECONDS, role="appliance")
            with sock, tls.explain(f"answering {peer} failed"):
                sock.settimeout(HANDSHAKE_SECONDS)
                with sock.makefile("rb") as stream:
                    line = stream.readline(MAX_LINE_BYTES)
                sock.sendall(msgspec.json.encode(self.answer(line)) + b"\n")
        except (RhaError, OSError) as error:
            print(f"rha observe: {peer}: {str(error).replace(chr(10), '; ')}", file=sys.stderr, flush=True)
        finally:
            self._slots.release()

    def answer(self, line: bytes) -> Answer:
        """Puts the checks of a question now."""
        try:
            question = from_json(line, Question, dec_hook=decode_unit)
        except (msgspec.MsgspecError, ValueError) as error:
            return Answer(error=f"this observer cannot read the question: {error}")
        why = _why_not(question)
        if why:
            return Answer(error=why)
        results = ask_all(question.checks, stop=self._stopping, kinds=self._kinds)
        return Answer(checks=[result.as_report() for result in results])


def _why_not(question: Question) -> str | None:
    """The reason why a question is not answered, or None."""
    if question.protocol != PROTOCOL:
        return f"this observer speaks protocol {PROTOCOL}, not {question.protocol}"
    if any(check.kind == "unit" for check in question.checks):
        return "only the master itself can say how its units are"
    if len(question.checks) > MAX_CHECKS or longest(question.checks) > MAX_CHECK_SECONDS:
        return f"more than {MAX_CHECKS} checks, or more than {MAX_CHECK_SECONDS:.0f} s of them"
    return None


def run(path: Path) -> int:
    """The daemon: runs until SIGTERM or SIGINT. Raises RhaError when it cannot start."""
    observer = Observer(load(path))

    def on_signal(number: int, frame: FrameType | None) -> None:
        observer.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    observer.listen()
    return int(Exit.OK)
