"""Asking an observer: one question and one answer, each a line of JSON, over mutual TLS (docs/fence.md).

The checks travel with the question: an observer has no scenario of its own that could be another one.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence

import msgspec

from rha.decoding import from_json
from rha.errors import NetworkError, RhaError
from rha.report import CheckReport
from rha.scenario import Check, Observer, decode_unit, encode_unit
from rha.watch.ask import longest
from rha.watch.base import Result
from rha.watch.votes import Opinion, Vote, opinion_of
from rha.wire import tls

PROTOCOL = 1
MAX_LINE_BYTES = 1 << 20


class Question(msgspec.Struct, kw_only=True):
    """Appliance → observer."""

    protocol: int
    scenario: str
    checks: list[Check]


class Answer(msgspec.Struct, kw_only=True):
    """Observer → appliance. `checks`: in the order of the question; valid iff `error` is empty."""

    protocol: int = PROTOCOL
    checks: list[CheckReport] = []
    error: str = ""


def vote_of(observer: Observer, scenario: str, checks: Sequence[Check], context: ssl.SSLContext) -> Vote:
    """What an observer sees. Never raises: one that cannot be asked does not know."""
    limit = longest(checks) + observer.timeout
    try:
        question = Question(protocol=PROTOCOL, scenario=scenario, checks=list(checks))
        answer = _ask(observer.address, question, context, limit)
    except RhaError as error:
        return Vote(observer.name, Opinion.UNKNOWN, f"{error.what}: {error.cause}" if error.cause else error.what)
    if answer.error or len(answer.checks) != len(checks):
        return Vote(observer.name, Opinion.UNKNOWN, answer.error or "it has not answered every check")
    results = [_result(check, found) for check, found in zip(checks, answer.checks, strict=True)]
    opinion, _ = opinion_of(results)
    return Vote(observer.name, opinion, "; ".join(found.why for found in answer.checks))


def voter(context: Callable[[], ssl.SSLContext]) -> Callable[[Observer, str, Sequence[Check]], Vote]:
    """`vote_of` with certificates that are read when they are used: a renewed one needs no restart."""

    def ask(observer: Observer, scenario: str, checks: Sequence[Check]) -> Vote:
        try:
            return vote_of(observer, scenario, checks, context())
        except RhaError as error:
            return Vote(observer.name, Opinion.UNKNOWN, error.what)

    return ask


def _result(check: Check, found: CheckReport) -> Result:
    return Result(check.kind, check.address, found.answered, 1, check.attempts, 0.0, found.why)


def _ask(address: str, question: Question, context: ssl.SSLContext, limit: float) -> Answer:
    """Raises NetworkError."""
    until = time.monotonic() + limit
    what = f"observer {address} does not answer"
    with tls.connect(address, context, limit) as sock, tls.explain(what):
        sock.sendall(msgspec.json.encode(question, enc_hook=encode_unit) + b"\n")
        line = b""
        while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            sock.settimeout(max(0.01, until - time.monotonic()))
            part = sock.recv(65536)
            if not part:
                raise NetworkError(what, cause="it hung up; was our certificate refused? It must be an appliance's")
            line += part
    try:
        return from_json(line, Answer, dec_hook=decode_unit)
    except msgspec.MsgspecError as error:
        raise NetworkError(what, cause=f"what it says cannot be read: {error}") from error
