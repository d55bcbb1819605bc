"""A receiver's connection on the appliance, and receivers that say what they should not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rha.appliance.offered import DIGESTS_WAITING, Offered
from rha.errors import Exit, NetworkError, RhaError
from rha.wire import frames
from rha.wire.codec import Packed
from rha.wire.frames import BadFrame, FrameType
from rha.wire.messages import PROTOCOL, Answer, Offer, Order, Refuse, Want
from rha.wire.stream import FrameReader
from tests.wire.tls_pair import connected, heard, issue


class Site:
    """`near`: the receiver's end. `ended`: what `serve` died of; None: it ended well."""

    def __init__(self, near: Any, far: Any) -> None:
        self.near, self.reader = near, FrameReader(near)
        offer = Offer(protocol=PROTOCOL, version="t", scenario="web", host="h", receiver="a" * 32, disks=[])
        self.offered = Offered(far, "peer", offer)
        self.ended: Any = "not ended"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.offered.serve()
            self.ended = None
        except RhaError as error:
            self.ended = error

    def heard(self, kind: FrameType) -> tuple[frames.Header, bytes]:
        return heard(self.reader, kind)

    def end(self) -> Any:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.ended


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("pki"), "web")


@pytest.fixture
def site(keys: Path) -> Iterator[Site]:
    with connected(keys, "web") as (near, far):
        made = Site(near, far)
        yield made
        made.offered.stop()
        made.thread.join(60)


def test_questions_content_and_orders_arrive_in_that_order(site: Site) -> None:
    site.offered.want(0, 0, [(0, 65536)])
    site.offered.send(0, 65536, Packed(b"x" * 512, 512))
    site.offered.send_zeros(0, 0, 4096)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(site.offered.ask("sync", 60)), daemon=True)
    asking.start()
    kinds = [site.heard(kind)[0].type for kind in (FrameType.WANT, FrameType.RESYNC, FrameType.RESYNC)]
    order = frames.decode_control(*site.heard(FrameType.ORDER), Order)
    assert kinds == [FrameType.WANT, FrameType.RESYNC, FrameType.RESYNC]
    site.near.sendall(frames.control(FrameType.ANSWER, Answer(id=order.id, value={"written": 512})))
    asking.join(60)
    assert answers == [{"written": 512}]
    digests = b"d" * 32
    site.near.sendall(frames.encode(FrameType.HASHES, digests, disk=1, offset=65536) + digests)
    assert site.offered.hashes() == (1, 65536, 0, digests)


def test_answers_to_questions_that_nobody_asks_any_more_are_forgotten(site: Site) -> None:
    site.offered.want(0, 0, [(0, 65536)])
    settling = threading.Thread(target=site.offered.settle, args=(60,), daemon=True)
    settling.start()
    order = frames.decode_control(*site.heard(FrameType.ORDER), Order)
    old, new = b"o" * 16, b"n" * 16
    site.near.sendall(frames.encode(FrameType.HASHES, old) + old)
    site.near.sendall(frames.control(FrameType.ANSWER, Answer(id=order.id)))
    settling.join(60)
    site.near.sendall(frames.encode(FrameType.HASHES, new) + new)
    assert site.offered.hashes()[3] == new


GARBAGE = {
    "noise": b"\x16" * 100,
    "the appliance's own frame": frames.control(FrameType.WANT, Want(disk=0, unit=0, ranges=[])),
    "records": frames.encode(FrameType.RECORDS, bytes(64)) + bytes(64),
    "digests as large as content": frames.encode(FrameType.HASHES, bytes(1 << 20)) + bytes(1 << 20),
    "digests that nobody wants": (frames.encode(FrameType.HASHES, bytes(16)) + bytes(16)) * (DIGESTS_WAITING + 2),
    "an answer that is none": frames.control(FrameType.ANSWER, Refuse(error="?")),
}


@pytest.mark.parametrize("noise", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_the_connection_and_whoever_waits_on_it(site: Site, noise: bytes) -> None:
    site.near.sendall(noise)
    assert isinstance(site.end(), BadFrame)
    assert not site.offered.is_alive
    with pytest.raises(NetworkError, match="the receiver is gone"):
        site.offered.want(0, 0, [(0, 65536)])


def test_whoever_waits_hears_of_the_end(site: Site) -> None:
    failures: list[RhaError] = []

    def wait_for(act: Any) -> None:
        try:
            act()
        except RhaError as error:
            failures.append(error)

    waiting = [
        threading.Thread(target=wait_for, args=(act,), daemon=True)
        for act in (site.offered.hashes, lambda: site.offered.ask("finish", 60))
    ]
    for thread in waiting:
        thread.start()
    site.heard(FrameType.ORDER)
    site.near.close()
    for thread in waiting:
        thread.join(60)
    assert sorted(error.what for error in failures) == [
        "the receiver is gone",
        "whether the receiver has done 'finish' is not known",
    ]
    assert Exit.UNKNOWN in {error.code for error in failures}


def test_its_own_refusal_is_told(site: Site) -> None:
    site.near.sendall(frames.control(FrameType.REFUSE, Refuse(error="disk broke", cause="EIO", hint="dmesg")))
    error = site.end()
    assert (error.what, error.cause, error.hint) == ("the receiver gave up: disk broke", "EIO", "dmesg")
    with pytest.raises(NetworkError) as caught:
        site.offered.want(0, 0, [(0, 65536)])
    assert caught.value.cause == "the receiver gave up: disk broke: EIO"


def test_whoever_sends_waits_for_the_line(site: Site) -> None:
    """A receiver that reads nothing holds up the sender, not the appliance's memory."""
    count = [0]

    def send() -> None:
        try:
            for n in range(200):
                site.offered.send(0, n << 20, Packed(bytes(1 << 20), 1 << 20))
                count[0] = n
        except NetworkError:
            pass

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(3)
    assert sending.is_alive()
    assert count[0] < 100
    site.offered.stop()
    sending.join(60)
    assert not sending.is_alive()
