"""The copy beside the running substitute: everything once, then what it wrote meanwhile, pass by pass.

Each pass also reads back what the one before has sent, so that in the pause only the last of it is left to be verified:
a block that was found equal on the master's device and not written by the guest since is equal in the end, by the rule
of rha/vm/live_disks.py.

A pass goes in portions; the receiver confirms each as being on stable storage. When its connection breaks and the same
run of the receiver comes back, the portion at hand is compared again and the copy goes on. Another run of it may stand
for other disks: then all is taken back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rha.appliance.sending import Line, Sending, Unverified
from rha.errors import NetworkError, StateError, VmError
from rha.image.client import ImageReader
from rha.image.statuses import Range
from rha.switch.passes import Pass, next_act
from rha.sync.fitting import why_not_fitting
from rha.units import show_bytes, show_seconds
from rha.vm.base import DomainState, VmHost
from rha.vm.live_disks import LiveDisks

PORTION_BYTES = 1 << 30
SYNC_SECONDS = 600.0
COME_BACK_SECONDS = 300.0
MOST_PAUSE_SECONDS = 60.0
Say = Callable[[str], None]
Ranges = Sequence[Sequence[Range]]  # by disk


class Receiver(Line, Protocol):
    """What is needed of rha.appliance.offered.Offered. `id`: of the run of the program."""

    peer: str

    @property
    def id(self) -> str: ...
    @property
    def sizes(self) -> dict[str, int]: ...
    def ask(self, verb: str, limit: float) -> Any: ...
    def settle(self, limit: float) -> None: ...
    def stop(self) -> None: ...


class CopyHost(Protocol):
    """What the copy needs from the appliance."""

    def receiver(self) -> Receiver | None:
        """The connected one; None: nobody offers disks."""

    def rates(self) -> tuple[int, int]:
        """Bytes per second that may be read of the substitute's disks, and sent; 0: no limit."""

    def codec(self) -> int:
        """By which content travels (rha/wire/codec.py)."""


@dataclass
class Meter:
    """A pass under way. Bytes: `total` to be compared; `compared` and `sent` of the portions that are confirmed."""

    total: int = 0
    compared: int = 0
    sent: int = 0
    begun: float = field(default_factory=time.monotonic)


class Figures(NamedTuple):
    """Of a pass: bytes compared so far, to be compared, and per second."""

    done: int
    total: int
    rate: float


class Copy:
    """One thread's own, but for `abort`. `disks`: name and overlay, as the substitute has them. `noted` is called with
    each pass that has ended."""

    def __init__(
        self,
        host: CopyHost,
        vm: VmHost,
        domain: str,
        disks: Sequence[tuple[str, Path]],
        folder: Path,
        *,
        noted: Callable[[Pass], None],
        say: Say,
    ) -> None:
        self._host, self._vm, self._domain, self._names = host, vm, domain, [name for name, _ in disks]
        self._noted, self._say = noted, say
        self._live = LiveDisks(vm, domain, disks, folder)
        self._readers = ExitStack()
        self._aborted = threading.Event()
        self._may_wait = True
        self.passes: list[Pass] = []
        self.sizes: list[int] = []
        self.meter = Meter()
        self.receiver_id = ""
        self._shown: Sending | None = None  # whose figures are shown

    # Begin and end --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Tracks what the guest writes from now on. Raises NetworkError, DeviceError, VmError, StorageError."""
        receiver = self._host.receiver()
        if receiver is None:
            raise NetworkError("the receiver is gone", cause="it was there a moment ago", hint="rha receive")
        receiver.settle(SYNC_SECONDS)
        self._live.begin()
        self._read_from(self._live.socket)
        if error := why_not_fitting(dict(zip(self._names, self.sizes, strict=True)), receiver.sizes):
            raise error
        self.unverified = Unverified(self.sizes)
        self._use(receiver)

    def _read_from(self, socket: Path) -> None:
        self._sources = [self._readers.enter_context(ImageReader(socket, name)) for name in self._names]
        self.sizes = [source.bytes for source in self._sources]

    def _use(self, receiver: Receiver) -> None:
        self._receiver, self.receiver_id = receiver, receiver.id
        host = self._host
        self.sending = Sending(
            receiver, self._sources, self.unverified, rates=host.rates, check=self._check, codec=host.codec()
        )
        self._shown = self.sending

    def let_go(self) -> None:
        """Reads no more: a reader that is connected would keep the domain from ending."""
        self._readers.close()

    def end(self) -> None:
        """Nothing of ours is left in the domain. Raises VmError."""
        self.let_go()
        self._live.end()

    def abort(self) -> None:
        """Ends what is being done soon, with StateError; from any thread."""
        self._aborted.set()

    def _check(self) -> None:
        if self._aborted.is_set():
            raise StateError("the switchback was broken off", cause="a person has asked for that")

    def figures(self) -> Figures:
        """Of the pass under way; from any thread."""
        meter, shown = self.meter, self._shown
        done = min(meter.total, meter.compared + (shown.tally.compared if shown else 0))
        seconds = max(1e-3, time.monotonic() - meter.begun)
        return Figures(done, meter.total, done / seconds)

    # Passes ---------------------------------------------------------------------------------------------------

    def copy(self) -> None:
        """Everything, once."""
        self._pass([[(0, size)] for size in self.sizes])

    def catch_up(self, *, force: bool) -> None:
        """Until little is left. Raises StateError when that does not come about, unless forced."""
        while True:
            self._check()
            self._must_run()
            left = self._live.dirty_bytes() + self.unverified.bytes
            found = next_act(self.passes, left, MOST_PAUSE_SECONDS)
            self._say(found.why)
            if found.act == "refuse" and not force:
                raise StateError(
                    "the substitute writes faster than its writes travel",
                    cause=found.why,
                    hint="when less is going on, again; or --force: the pause is as long as it says",
                )
            if found.act != "pass":
                return
            self._pass(self.unverified.together(self._live.swap()))

    @property
    def last_bitmap(self) -> str:
        """What the overlays hold once the domain is off: dirtied since the last pass began."""
        return self._live.last_bitmap

    def last_pass(self, socket: Path, ranges: Ranges) -> None:
        """With the domain off. `socket`: where its disks can be read now. A break of the line is not waited off."""
        self._may_wait = False
        self._read_from(socket)
        self._use(self._receiver)
        self._pass(ranges)

    def verify(self, *, everything: bool) -> list[tuple[int, int, int]]:
        """Compares what was not read back yet, or everything: disk, offset and length of what differs."""
        ranges: Ranges = [[(0, size)] for size in self.sizes] if everything else self.unverified.together(self._nothing)
        self.meter = Meter(total=sum(length for own in ranges for _, length in own))
        return self.sending.differences(ranges)

    @property
    def _nothing(self) -> Ranges:
        return [[] for _ in self.sizes]

    def _pass(self, ranges: Ranges) -> None:
        self.meter = meter = Meter(total=sum(length for own in ranges for _, length in own))
        for portion in portions(ranges):
            self._bring(portion)
            meter.compared, meter.sent = meter.compared + self._done[0], meter.sent + self._done[1]
        seconds = time.monotonic() - meter.begun
        one = Pass(number=len(self.passes), compared=meter.compared, sent=meter.sent, seconds=seconds)
        self.passes.append(one)
        self._noted(one)
        self._say(
            f"pass {one.number}: compared {show_bytes(one.compared)}, sent {show_bytes(one.sent)} "
            f"in {show_seconds(one.seconds)}"
        )

    def _bring(self, portion: Ranges) -> None:
        """One portion, confirmed."""
        while True:
            try:
                tally = self.sending.bring(portion)
                self._receiver.ask("sync", SYNC_SECONDS)
            except NetworkError as error:
                if not self._may_wait:
                    raise
                self._await_receiver(error)
                continue
            self._done = (tally.compared, tally.differing)
            return

    def _await_receiver(self, error: NetworkError) -> None:
        """The same run of it. Raises the error when it does not come back."""
        self._say(f"{error.what}: {error.cause}; it may come back within {show_seconds(COME_BACK_SECONDS)}")
        until = time.monotonic() + COME_BACK_SECONDS
        while time.monotonic() < until:
            self._check()
            self._must_run()
            receiver = self._host.receiver()
            if receiver and receiver is not self._receiver:
                if receiver.id != self.receiver_id:
                    raise NetworkError("the receiver was started anew", cause="its disks may be others") from error
                self._say(f"{receiver.peer} is back, the copy goes on")
                self._use(receiver)
                return
            time.sleep(0.2)
        raise error

    def _must_run(self) -> None:
        state = self._vm.state(self._domain)
        if state != DomainState.RUNNING:
            raise VmError(f"domain {self._domain} is {state}", cause="it ended while its disks were copied")


def portions(ranges: Ranges, most_bytes: int = PORTION_BYTES) -> Iterator[list[list[Range]]]:
    """The ranges in portions of at most so many bytes, over all disks."""
    portion: list[list[Range]] = [[] for _ in ranges]
    room = most_bytes
    for disk, own in enumerate(ranges):
        for offset, length in own:
            while length:
                part = min(length, room)
                portion[disk].append((offset, part))
                offset, length, room = offset + part, length - part, room - part
                if room == 0:
                    yield portion
                    portion, room = [[] for _ in ranges], most_bytes
    if any(portion):
        yield portion
