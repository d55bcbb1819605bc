"""Control messages of either side, and what is done with their values: shown again as JSON, ordered, answered; what a
greeting says of a master that wrote alone is judged and shown to a person."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from rha import splitview
from rha.errors import RhaError
from rha.hashing import xxh3
from rha.report import Point
from rha.switch.split import Evidence, Heard, Substitute, judge, unknowns
from rha.switch.ways import ways
from rha.vm.written import DiskWritten
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


def show_split(hello: messages.Hello) -> None:
    """As the appliance does with a master that it sends away, and `rha split` with the answer."""
    heard = Heard(host=hello.host, peer="p", time=1.0, decided=1.0, generation=hello.generation, alone=hello.alone)
    written = [DiskWritten(name="d0", overlay="/o", held_bytes=65536)]
    evidence = Evidence(
        scenario="web",
        kind="failover",
        reason="",
        by="eve",
        decided=1.0,
        common=Point(lsn=4096, time=1.0),
        received_lsn=4096,
        generation="5" * 32,
        substitute=Substitute(domain="rha-web", state="running", started=1.0, disks=written),
        master=heard,
    )
    verdict = judge(evidence)
    answer = {
        "evidence": msgspec.to_builtins(evidence),
        "sentence": verdict.sentence,
        "unknown": unknowns(evidence),
        "ways": msgspec.to_builtins(ways(evidence, overwrites=verdict.is_alarm)),
        "now": 2.0,
    }
    for line in splitview.report(answer):
        assert all(letter.isprintable() or letter == "\n" for letter in line), line


def run(data: bytes, folder: Path) -> None:
    if not data:
        return
    kind, raw = KINDS[data[0] % len(KINDS)], data[1:]
    payload = frames.pad(raw)
    head = frames.encode(FrameType.HELLO, payload, raw_length=len(raw), payload_sum=xxh3(payload))
    message = frames.decode_control(frames.decode_header(head), payload, kind)
    assert msgspec.json.decode(msgspec.json.encode(message), type=kind) == message
    if isinstance(message, messages.Hello):
        show_split(message)
    if isinstance(message, Order):
        said = perform({"add": add}, message)
        frames.control(FrameType.ANSWER, said)
    if isinstance(message, Answer) and message.what is not None:
        with contextlib.suppress(RhaError):
            _value(message)
