"""Digests of a master's blocks compared with the images."""

from __future__ import annotations

import queue
import threading

from rha.appliance.replica import Replica
from rha.sync.blocks import DIGEST_BYTES, MOST_BYTES, UNITS, differing, digests
from rha.wire.frames import BadFrame, Header
from rha.wire.wake import Wake

MOST_QUESTIONS = 512  # unanswered; engines have a dozen on the way


class Comparer(threading.Thread):
    """Compares digests with the images, beside the receiver. A question is answered from the images as they are once
    everything that stood before it in the stream and may concern it is applied (rha/appliance/before.py): an older
    image might agree by chance with what later records undo."""

    def __init__(self, replica: Replica, wake: Wake) -> None:
        super().__init__(name=f"compare-{replica.name}", daemon=True)
        self._replica, self._wake = replica, wake
        self._questions: queue.SimpleQueue[tuple[Header, bytes, int] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Header, bytes]] = queue.SimpleQueue()
        self._buffer = bytearray()  # kept: memory that is new for each question costs more than the reading
        self._failure: BaseException | None = None

    def ask(self, header: Header, theirs: bytes, position: int) -> None:
        """One HASHES frame that `asked_bytes` has checked. `position`: of the journal, behind all that concerns it.

        Raises BadFrame.
        """
        if self._questions.qsize() >= MOST_QUESTIONS:
            raise BadFrame("too many questions at a time", cause=f"{MOST_QUESTIONS} of them are not answered yet")
        self._questions.put((header, theirs, position))

    def answers(self) -> list[tuple[Header, bytes]]:
        """What is answered by now. Raises what the comparison died of."""
        if self._failure:
            raise self._failure
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

    def run(self) -> None:
        try:
            while (question := self._questions.get()) is not None:
                self._answers.put((question[0], self._compare(*question)))
                self._wake.set()
        except BaseException as error:  # noqa: BLE001 - raised again in the connection's thread
            self._failure = error
            self._wake.set()

    def _compare(self, header: Header, theirs: bytes, position: int) -> bytes:
        self._replica.wait_applied(position)
        blocks, size, unit = len(theirs) // DIGEST_BYTES, self._replica.disk_bytes(header.disk), _unit(header)
        length = min(blocks * unit, size - header.offset)
        if length <= (blocks - 1) * unit:
            raise BadFrame("digests beyond the end of the disk", cause=f"{blocks} blocks at {header.offset} of {size}")
        if len(self._buffer) < length:
            self._buffer = bytearray(length)
        with memoryview(self._buffer)[:length] as content:
            self._replica.read_image_into(header.disk, header.offset, content)
            mine = digests(content, unit)
        return self._replica.judge(header.disk, header.offset, unit, differing(mine, theirs))

    def stop(self) -> None:
        self._questions.put(None)
        self.join()


def asked_bytes(header: Header, theirs: bytes) -> int:
    """Of how much of the disk these are digests. Raises BadFrame."""
    if not theirs or len(theirs) % DIGEST_BYTES or header.offset % _unit(header):
        raise BadFrame("digests that fit no blocks", cause=f"{len(theirs)} bytes at {header.offset}")
    length = len(theirs) // DIGEST_BYTES * _unit(header)
    if length > MOST_BYTES:
        raise BadFrame("digests of too much at a time", cause=f"{length} bytes, {_unit(header)} for each")
    return length


def _unit(header: Header) -> int:
    """Bytes that one digest stands for. Raises BadFrame."""
    if header.flags not in UNITS:
        raise BadFrame("digests of an unknown unit", cause=f"flags {header.flags}")
    return UNITS[header.flags]
