"""A receiver and an appliance that says what a test wants: over TLS, on a real device."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rha.engine.receiving import Refused, Session, offer_of
from rha.engine.target import Target
from rha.errors import DeviceError, NetworkError, RhaError
from rha.sync.blocks import digests
from rha.wire import frames
from rha.wire.frames import HEADER_BYTES, BadFrame, FrameType
from rha.wire.messages import PROTOCOL, Answer, Offer, Order, Refuse, Taken, Want
from rha.wire.stream import FrameReader
from tests.wire.tls_pair import connected, heard, issue

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("pki"), "web")


class Site:
    """`far`: the appliance's end, greeted. `session` runs in a thread; `ended` is what it returned or died of."""

    def __init__(self, keys: Path, device: str, stack: ExitStack) -> None:
        self.device = device
        self.target = Target("disk", device)
        stack.callback(self.target.close)
        near, self.far = stack.enter_context(connected(keys, "web"))
        self.reader = FrameReader(self.far)
        self.session = Session(near, offer_of("web", "a" * 32, [self.target]), [self.target])
        self.ended: Any = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.session.greet()
            self.ended = self.session.run()
        except RhaError as error:
            self.ended = error

    def greet(self, *, names: tuple[str, ...] = ("disk",), sizes: tuple[int, ...] = (SIZE,)) -> None:
        self.thread.start()
        header, payload = self.reader.read()
        assert frames.decode_control(header, payload, Offer).disks[0].bytes == SIZE
        taken = Taken(protocol=PROTOCOL, version="t", host="h", disks=list(names), bytes=list(sizes))
        self.say(frames.control(FrameType.TAKEN, taken))

    def say(self, *parts: bytes) -> None:
        self.far.sendall(b"".join(parts))

    def want(self, ranges: list[tuple[int, int]], *, disk: int = 0, unit: int = 0) -> None:
        self.say(frames.control(FrameType.WANT, Want(disk=disk, unit=unit, ranges=ranges)))

    def content(self, offset: int, data: bytes, *, disk: int = 0) -> None:
        self.say(frames.encode(FrameType.RESYNC, data, disk=disk, offset=offset), data)

    def order(self, verb: str) -> Answer:
        self.say(frames.control(FrameType.ORDER, Order(id=7, verb=verb)))
        header, payload = self.heard(FrameType.ANSWER)
        return frames.decode_control(header, payload, Answer)

    def heard(self, kind: FrameType) -> tuple[frames.Header, bytes]:
        return heard(self.reader, kind)

    def end(self) -> Any:
        self.thread.join(60)
        assert not self.thread.is_alive(), "the receiver does not end"
        return self.ended

    def disk(self) -> bytes:
        return Path(self.device).read_bytes()


@pytest.fixture
def site(keys, loop_device) -> Iterator[Site]:
    with ExitStack() as stack:
        device = loop_device(SIZE)
        Path(device).write_bytes(random.Random(1).randbytes(SIZE))
        yield Site(keys, device, stack)


def test_digests_content_and_an_end(site):
    before = site.disk()
    site.greet()
    site.want([(0, 2 * MIB), (3 * MIB, 65536)])
    found = [site.heard(FrameType.HASHES) for _ in range(3)]
    assert [header.offset for header, _ in found] == [0, MIB, 3 * MIB]
    assert b"".join(payload for _, payload in found) == digests(memoryview(before[: 2 * MIB])) + digests(
        memoryview(before[3 * MIB : 3 * MIB + 65536])
    )
    site.content(4096, b"x" * 8192)
    zeros = frames.zeros_payload(65536)
    site.say(frames.encode(FrameType.RESYNC, zeros, offset=MIB, flags=frames.FLAG_ZEROS), zeros)
    assert site.order("sync").value == {"written": 8192, "zeroed": 65536}
    site.want([(4096, 4096)], unit=frames.FLAG_PAGES)
    assert site.heard(FrameType.HASHES)[1] == digests(memoryview(b"x" * 4096), 4096)
    assert site.order("finish").what is None
    site.far.close()
    assert site.end() is True
    wanted = bytearray(before)
    wanted[4096 : 4096 + 8192] = b"x" * 8192
    wanted[MIB : MIB + 65536] = bytes(65536)
    assert site.disk() == wanted


GARBAGE = {
    "no frame": b"\x16" * 200,
    "a header cut short and then noise": frames.encode(FrameType.RESYNC, bytes(4096))[:40] + b"\xff" * 80,
    "a payload that is damaged": frames.encode(FrameType.RESYNC, bytes(4096)) + b"\1" * 4096,
    "a frame of another conversation": frames.control(FrameType.WANT, Refuse(error="?")),
    "the engine's frame": frames.encode(FrameType.RECORDS, bytes(64)) + bytes(64),
    "behind the end": frames.encode(FrameType.RESYNC, bytes(4096), offset=SIZE) + bytes(4096),
    "across the end": frames.encode(FrameType.RESYNC, bytes(4096), offset=SIZE - 512) + bytes(4096),
    "not a sector": frames.encode(FrameType.RESYNC, bytes(4096), offset=100) + bytes(4096),
    "a disk that was not offered": frames.encode(FrameType.RESYNC, bytes(4096), disk=1) + bytes(4096),
    "zeros without end": frames.encode(
        FrameType.RESYNC, frames.zeros_payload(1 << 60), flags=frames.FLAG_ZEROS
    ) + frames.zeros_payload(1 << 60),
    "an unknown unit": frames.control(FrameType.WANT, Want(disk=0, unit=9, ranges=[(0, 65536)])),
    "digests of nothing": frames.control(FrameType.WANT, Want(disk=0, unit=0, ranges=[(0, 0)])),
    "digests from before the beginning": frames.control(FrameType.WANT, Want(disk=0, unit=0, ranges=[(-65536, 65536)])),
    "too much to be asked": frames.control(FrameType.WANT, Want(disk=0, unit=0, ranges=[(0, 1 << 40)])),
    "a compressed lie": frames.encode(FrameType.RESYNC, bytes(64), codec=2, raw_length=4096, raw_sum=1) + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("noise", GARBAGE.values(), ids=GARBAGE)
def test_garbage_changes_nothing_and_is_told(site, noise):
    before = site.disk()
    site.greet()
    site.say(noise, frames.encode(FrameType.RESYNC, bytes(4096)), bytes(4096))
    header, payload = site.heard(FrameType.REFUSE)
    refusal = frames.decode_control(header, payload, Refuse)
    ended = site.end()
    assert isinstance(ended, BadFrame)
    assert refusal.error == ended.what
    assert site.disk() == before


def test_noise_of_every_kind_never_gets_out_of_the_offered_disks(site):
    """Frames with right sums and random fields: what is written lies in the offered disk, or the session ends well."""
    draw = random.Random(5)
    site.greet()
    for _ in range(40):
        kind = draw.choice([FrameType.RESYNC, FrameType.WANT, FrameType.ORDER, FrameType.HASHES, FrameType.HELLO])
        payload = draw.randbytes(8 * draw.randrange(0, 600))
        fields = {"disk": draw.randrange(2), "offset": draw.randrange(1 << 63), "flags": draw.randrange(256)}
        try:
            site.say(frames.encode(kind, payload, **fields), payload)
        except OSError:  # it has hung up already
            break
    assert isinstance(site.end(), BadFrame)


@pytest.mark.parametrize("cut", [1, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 4096])
def test_a_line_that_is_cut_in_a_frame_leaves_it_undone(site, cut):
    before = site.disk()
    site.greet()
    site.content(0, b"a" * 4096)
    assert site.order("sync").what is None
    site.say((frames.encode(FrameType.RESYNC, bytes(8192), offset=65536) + bytes(8192))[:cut])
    site.far.close()
    assert isinstance(site.end(), NetworkError)
    assert site.disk() == b"a" * 4096 + before[4096:]


def test_an_order_that_it_does_not_know(site):
    site.greet()
    assert "does not know the order" in site.order("format").what
    assert site.order("finish").what is None
    site.far.close()
    assert site.end() is True


def test_a_disk_that_is_too_small(site):
    site.greet(sizes=(SIZE + 512,))
    error = site.end()
    assert isinstance(error, DeviceError)
    assert error.what == "disk disk is too small"
    header, payload = site.heard(FrameType.REFUSE)
    assert frames.decode_control(header, payload, Refuse).error == error.what


def test_disks_that_were_not_offered(site):
    site.greet(names=("disk", "data"), sizes=(SIZE, SIZE))
    assert site.end().what == "disk data is not offered"


def test_a_refusal_has_its_words(site):
    site.thread.start()
    site.reader.read()
    site.say(frames.control(FrameType.REFUSE, Refuse(error="no", cause="because", hint="wait", final=True)))
    error = site.end()
    assert isinstance(error, Refused)
    assert (error.what, error.cause, error.hint, error.final) == ("no", "because", "wait", True)


def test_it_beats_while_it_has_nothing_to_do_and_stops_when_told(site):
    site.greet()
    begun = time.monotonic()
    site.heard(FrameType.HEARTBEAT)
    site.heard(FrameType.HEARTBEAT)
    assert time.monotonic() - begun < 30
    site.session.stop()
    assert site.end() is False
