"""Which codec a frame goes by. `auto` compresses only where the line is what is waited for, by what it has measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rha.hashing import Buffer
from rha.units import show_bytes
from rha.wire import codec
from rha.wire.codec import Compressor, Packed

Mode = Literal["auto", "none", "lz4", "zstd"]
SAMPLE_BYTES = 128 << 10
SAMPLE_SECONDS = 1.0
GAIN = 1.1  # a codec must be this much faster than none to be worth the master's CPU
BLOCKED_SHARE = 0.3  # of the time in which something was to be sent: from here on the line is the limit
REMEMBER_SECONDS = 60.0  # a line that compression has relieved does not look slow any more


class Measured(NamedTuple):
    """What a codec did to a sample. `ratio`: compressed per raw byte; `seconds`: of CPU per raw byte."""

    ratio: float
    seconds: float


class Choice(NamedTuple):
    codec: int
    why: str


def choose(measured: Mapping[str, Measured], line_rate: float) -> Choice:
    """The codec by which a raw byte arrives soonest over a line of `line_rate` bytes per second; 0: the line is not the
    limit. Compressing and sending are done by one thread, so their times add up."""
    if not line_rate:
        return Choice(codec.NONE, "not compressed: the line is not the limit")
    plain = 1 / line_rate
    times = {name: one.seconds + one.ratio * plain for name, one in measured.items()}
    line = f"line {show_bytes(line_rate)}/s"
    if not times:
        return Choice(codec.NONE, f"not compressed yet: nothing measured, {line}")
    best = min(times, key=lambda name: times[name])
    gain = plain / times[best]
    if gain < GAIN:
        return Choice(codec.NONE, f"not compressed: {best} would be {gain:.2f} times as fast, {line}")
    smaller = 1 / measured[best].ratio
    return Choice(codec.NAMES[best], f"{best}: {smaller:.1f} times smaller, {gain:.1f} times as fast, {line}")


@dataclass
class LineRate:
    """How fast the line is, told from when it is waited for. Pure; times are monotonic seconds, counters only grow."""

    rate: float = 0.0  # bytes per second; 0: not the limit, or forgotten
    _at: float = 0.0
    _seen: tuple[int, float, float] = (0, 0.0, 0.0)

    def look(self, now: float, sent_bytes: int, busy_seconds: float, blocked_seconds: float) -> None:
        """To be called about once a second with the link's counters."""
        sent = sent_bytes - self._seen[0]
        busy, blocked = busy_seconds - self._seen[1], blocked_seconds - self._seen[2]
        self._seen = (sent_bytes, busy_seconds, blocked_seconds)
        if sent and busy > 0.01 and blocked / busy >= BLOCKED_SHARE:
            found = sent / busy
            self.rate = (self.rate + found) / 2 if self.rate else found
            self._at = now
        elif now - self._at > REMEMBER_SECONDS:
            self.rate = 0.0


@dataclass
class Packer:
    """Packs payloads by the scenario's mode. One thread's own."""

    mode: Mode
    codecs: list[str]  # that the appliance can read
    choice: Choice = field(init=False)
    _compressor: Compressor = field(default_factory=Compressor)
    _measured: dict[str, Measured] = field(default_factory=dict)
    _sampled_at: float = 0.0

    def __post_init__(self) -> None:
        self.choice = self._fixed()

    def _fixed(self) -> Choice:
        if self.mode in ("auto", "none"):
            return Choice(codec.NONE, "not compressed")
        if self.mode not in self.codecs:
            return Choice(codec.NONE, f"not compressed: the appliance does not read {self.mode}")
        return Choice(codec.NAMES[self.mode], self.mode)

    def pack(self, data: Buffer, line_rate: float) -> Packed:
        """The payload as it shall travel. `line_rate`: as for `choose`."""
        if self.mode == "auto":
            if line_rate:
                self._sample(data)
            self.choice = choose(self._measured, line_rate)
        return self._compressor.pack(self.choice.codec, data)

    def _sample(self, data: Buffer) -> None:
        now = time.monotonic()
        if now - self._sampled_at < SAMPLE_SECONDS or len(data) < 4096:
            return
        self._sampled_at = now
        part = memoryview(data)[:SAMPLE_BYTES]
        for name in self.codecs:
            if name in codec.NAMES and name != "none":
                self._measured[name] = _blend(self._measured.get(name), self._try(codec.NAMES[name], part))

    def _try(self, number: int, part: memoryview) -> Measured:
        begin = time.thread_time()
        small = len(self._compressor.bytes_of(number, part))
        return Measured(small / len(part), (time.thread_time() - begin) / len(part))


def _blend(before: Measured | None, now: Measured) -> Measured:
    """Half of what was, half of what is: one odd frame must not turn the decision."""
    return now if before is None else Measured(*((a + b) / 2 for a, b in zip(before, now, strict=True)))
