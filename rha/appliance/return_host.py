"""What a switchback needs of one scenario's appliance: its receiver, its replica, its lease."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rha.appliance.adopting import adopt
from rha.appliance.offered import Offered
from rha.appliance.parted import Parted, why_not_overwrite
from rha.appliance.replica import Replica
from rha.appliance.warden import ENDED
from rha.errors import StateError
from rha.fence import taking
from rha.fence.taking import Means
from rha.image.storage_daemon import ImageSpec
from rha.scenario import Scenario
from rha.schedule import limit_at
from rha.switch import guest
from rha.switch.progress import Image
from rha.switch.returning import FOLDER
from rha.vm.base import VmHost
from rha.wire import codec


class Home:
    """Satisfies rha.switch.returning.ReturnHost. `means`: by which the appliance reaches the lease; `greeted`: the
    master's engine has come since the hand-over began. Everything may be called from any thread."""

    def __init__(self, replica: Replica, vm: VmHost, means: Means) -> None:
        self.replica, self.folder, self._vm = replica, replica.folder, vm
        self._means = means
        self._lock = threading.Lock()
        self._receiver: Offered | None = None
        self.greeted = False

    def say(self, sentence: str) -> None:
        """To the log."""
        print(f"rha appliance: {self.replica.name}: {sentence}", file=sys.stderr, flush=True)

    @property
    def scenario(self) -> Scenario:
        scenario = self.replica.scenario
        if scenario is None:
            raise StateError(f"{self.replica.name} was never connected", cause="its scenario is not known here")
        return scenario

    def receiver(self) -> Offered | None:
        with self._lock:
            return self._receiver if self._receiver and self._receiver.is_alive else None

    def take(self, receiver: Offered) -> None:
        """A new receiver takes the place of an old one."""
        with self._lock:
            before, self._receiver = self._receiver, receiver
        if before:
            before.stop()

    def forget(self, receiver: Offered) -> None:
        """Its connection has ended."""
        with self._lock:
            if self._receiver is receiver:
                self._receiver = None

    def why_not_overwrite(self) -> str:
        return why_not_overwrite(Parted(self.replica, self._vm))

    def has_greeted(self) -> bool:
        return self.greeted

    def rates(self) -> tuple[int, int]:
        scenario = self.scenario
        return int(scenario.sync.read_limit), limit_at(scenario.link, datetime.now()).rate

    def codec(self) -> int:
        """`auto` is LZ4 here: cheaper than any line, and a frame that it does not shrink travels as it is."""
        wanted = self.scenario.link.compression
        return codec.LZ4 if wanted == "auto" else codec.NAMES[wanted]

    def adapt_guest(self, images: Sequence[Image], *, tcg: bool) -> None:
        limit = self.scenario.vm.guest.limit
        self._say_all(guest.adapt_again(self.scenario, _overlays(images), self.folder, tcg=tcg, limit=limit))

    def restore_guest(self, images: Sequence[Image], *, tcg: bool) -> None:
        limit = self.scenario.vm.guest.limit
        self._say_all(guest.revert(_overlays(images), self.folder, tcg=tcg, limit=limit))

    def _say_all(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            self.say(f"guest: {sentence}")

    def release(self) -> None:
        if self.scenario.lease:
            self.say(taking.release(self.scenario, self._means))

    def keep(self, images: Sequence[Image], moment: float, by: str) -> int:
        """A substitute at an earlier point has two overlays a disk: what differs there, and what the guest wrote."""
        written = _overlays(images)
        below = [ImageSpec(image.name, Path(image.path), image.format) for image in images]
        is_point = [spec.path for spec in below] != self.replica.image_paths()
        layers = [below, written] if is_point else [written]
        return adopt(self.replica, layers, self.folder / FOLDER, moment, by)

    def reopen(self) -> None:
        (self.folder / ENDED).touch()
        Parted(self.replica, self._vm).forget()
        self.replica.restore_images()


def _overlays(images: Sequence[Image]) -> list[ImageSpec]:
    """What the substitute has written to."""
    return [ImageSpec(image.name, Path(image.overlay), "qcow2") for image in images]
