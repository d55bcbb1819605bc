"""Control messages of either side, and what is done with their values: shown again as JSON, ordered, answered."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from rha.errors import RhaError
from rha.hashing import xxh3
from rha.wire import frames, messages
from rha.wire.frames import FrameType
from rha.wire.messages import Answer, Order
from rha.wire.orders import _value, perform

KINDS = (
    messages.Hello,
    messages.Welcome,
    messages.Refuse,
    messages.Heartbeat,
    messages.Ack,
    messages.Order,
    messages.Answer,
    messages.Mark,
    messages.Gap,
    messages.Rewind,
    messages.End,
)


def add(left: int, right: int = 1) -> int:
    return left + right


def run(data: bytes, folder: Path) -> None:
    if not data:
        return
    kind, raw = KINDS[data[0] % len(KINDS)], data[1:]
    payload = frames.pad(raw)
    head = frames.encode(FrameType.HELLO, payload, raw_length=len(raw), payload_sum=xxh3(payload))
    message = frames.decode_control(frames.decode_header(head), payload, kind)
    assert msgspec.json.decode(msgspec.json.encode(message), type=kind) == message
    if isinstance(message, Order):
        said = perform({"add": add}, message)
        frames.control(FrameType.ANSWER, said)
    if isinstance(message, Answer) and message.what is not None:
        with contextlib.suppress(RhaError):
            _value(message)
