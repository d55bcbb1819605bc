"""The effects of a failover's steps. Each may be done again after a crash in its middle."""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from rha.errors import RhaError, VmError
from rha.image import formats
from rha.image.storage_daemon import ImageSpec
from rha.redirect import run as redirect
from rha.redirect.base import replica_place
from rha.report import Point
from rha.scenario import Scenario
from rha.switch import guest
from rha.switch.plan import StepName
from rha.switch.progress import Image, Progress, measure
from rha.switch.ready import keep_picture, wait_ready
from rha.switch.runner import Effect
from rha.vm.accelerator import Accelerator, choose
from rha.vm.base import DomainState, Firmware, VmHost, VmSpec, domain_name
from rha.vm.card import network_of
from rha.vm.chain import in_ceph
from rha.vm.firmware import choose_firmware

OVERLAYS = "substitute"  # folder of the overlays, in the scenario's folder


class FailoverHost(Protocol):
    """What a failover needs from the appliance, for one scenario. Everything may be called again after it was done.

    `folder`: the scenario's own; `store`: the outermost folder of the appliance, above it.
    """

    @property
    def scenario(self) -> Scenario: ...

    @property
    def folder(self) -> Path: ...

    @property
    def store(self) -> Path: ...

    def why_not_consistent(self) -> str | None:
        """The reason why the images are no state of the master once everything received is applied; None: they are."""

    def cut_off(self) -> None:
        """Makes sure that the master does not serve (rha.fence.taking). Raises RhaError when that is not certain."""

    def stop_receiving(self) -> None:
        """Hangs up on the master and lets it in no more, until the substitute is discarded."""

    def apply_spool(self, limit_seconds: float) -> Point | None:
        """Applies everything durable. Returns the point that the images then show; None when they show none.

        Raises RhaError when it fails or takes longer.
        """

    def close_images(self, at: Point | None = None) -> list[ImageSpec]:
        """Writes the checkpoint and lets go of the images; in the order of the disks. `at`: what is returned shows this
        earlier point. Raises StorageError, StateError when there is no such point any more."""

    def earlier_point(self, before: Point, seconds: float) -> Point | None:
        """The newest bookmark of the `seconds` before a point, else the point so long before it; None: there is
        none."""


class Steps:
    """The effects of every switch that ends in a substitute; results go into `progress`, which the runner saves. Kinds
    of switches add theirs to `effects`."""

    def __init__(
        self,
        host: FailoverHost,
        vm: VmHost,
        progress: Progress,
        choose_accelerator: Callable[[str], Accelerator] = choose,
    ) -> None:
        self.host, self.vm, self.progress = host, vm, progress
        self._choose = choose_accelerator
        self.effects: dict[str, Effect] = {
            StepName.CHECK_REDIRECT: Effect(lambda _: self._check_redirect()),
            StepName.FENCE: Effect(lambda _: self._fence()),
            StepName.STOP_RECEIVING: Effect(lambda _: self.host.stop_receiving()),
            StepName.APPLY_SPOOL: Effect(self._apply_spool),
            StepName.CLOSE_IMAGES: Effect(self._close_images),
            StepName.MAKE_OVERLAY: Effect(self._make_overlays, self._remove_overlays),
            StepName.ADAPT_GUEST: Effect(self._adapt_guest),
            StepName.DEFINE_DOMAIN: Effect(self._define, self._undefine),
            StepName.START_DOMAIN: Effect(self._start),
            StepName.WAIT_READY: Effect(self._wait_ready),
            StepName.REDIRECT: Effect(lambda _: self._redirect()),
            StepName.RECORD: Effect(lambda _: measure(self.progress)),
        }

    def _check_redirect(self, but: Collection[str] = ()) -> None:
        redirect.check(self.host.scenario.redirect, replica_place(self.host.scenario.name, self.host.folder), but)

    def _fence(self) -> None:
        """Forced, a person answers for it that the master is off."""
        try:
            self.host.cut_off()
        except RhaError as error:
            if not self.progress.forced:
                raise
            self.progress.steps[-1].sentence += f"; NOT certain, forced: {error.what}: {error.cause}"

    def _redirect(self) -> None:
        redirect.apply(self.host.scenario.redirect, replica_place(self.host.scenario.name, self.host.folder))

    def _apply_spool(self, limit: float) -> None:
        self.progress.point = self.host.apply_spool(limit)

    def _close_images(self, _: float) -> None:
        folder = self.host.folder / OVERLAYS
        self.progress.images = [
            Image(name=spec.name, path=str(spec.path), format=spec.format, overlay=str(folder / f"{spec.name}.qcow2"))
            for spec in self.host.close_images(self.progress.wanted)
        ]
        if self.progress.wanted:
            self.progress.point = self.progress.wanted

    def _make_overlays(self, _: float) -> None:
        """Overlays that a cut-off run has left are empty still: no domain was started on them."""
        (self.host.folder / OVERLAYS).mkdir(mode=0o750, exist_ok=True)
        for image in self.progress.images:
            Path(image.overlay).unlink(missing_ok=True)
            formats.overlay(Path(image.overlay), Path(image.path), image.format)

    def _remove_overlays(self) -> None:
        remove_overlays(self.host.folder, self.progress)

    def _adapt_guest(self, limit: float) -> None:
        scenario, tcg = self.host.scenario, self._choose(self.host.scenario.vm.accelerator).name == "tcg"
        make = functools.partial(self._make_overlays, limit)
        guest.adapt(scenario, self.host.folder, self.progress, tcg=tcg, make_overlays=make, limit=limit)

    def _define(self, _: float) -> None:
        wanted, progress = self.host.scenario.vm, self.progress
        first, firmware, progress.firmware_why = self._firmware()
        accelerator = self._choose(wanted.accelerator)
        bus = guest.bus_of(self.host.scenario, progress)
        progress.firmware, progress.bus = firmware, bus
        progress.accelerator, progress.accelerator_why = accelerator.name, accelerator.why
        progress.domain = domain_name(self.host.scenario.name)
        overlays = [Path(image.overlay) for image in progress.images]
        self.vm.define(
            VmSpec(
                name=progress.domain,
                scenario=self.host.scenario.name,
                memory=wanted.memory,
                cpus=wanted.cpus,
                firmware=firmware,
                bus=bus,
                accelerator=accelerator.name,
                disks=(overlays[first], *overlays[:first], *overlays[first + 1 :]),
                backing=tuple(Path(image.path) for image in progress.images),
                network=network_of(self.host.scenario),
                folder=self.host.folder,
                store=self.host.store,
                in_ceph=in_ceph(overlays),
            )
        )

    def _undefine(self) -> None:
        name = domain_name(self.host.scenario.name)
        if self.vm.owner(name) == self.host.scenario.name:
            self.vm.undefine(name)

    def _firmware(self) -> tuple[int, Firmware, str]:
        """Which disk boots, with what firmware, and why. The scenario's word goes before the disks'."""
        images = ((Path(image.path), image.format) for image in self.progress.images)
        return choose_firmware(self.host.scenario.vm.firmware, images)

    def _start(self, _: float) -> None:
        self.progress.started = time.time()
        self.vm.start(self.progress.domain)

    def _wait_ready(self, limit: float) -> None:
        """Whatever came of it, what its screen shows is kept beside its console's log."""
        try:
            self._see_ready(limit)
        finally:
            kept = keep_picture(self.vm, self.progress.domain, self.host.folder / "screen.png")
            self.progress.steps[-1].sentence += f"; screen: {kept}"

    def _see_ready(self, limit: float) -> None:
        wanted, name = self.host.scenario.vm, self.progress.domain
        if wanted.ready:
            wait_ready(wanted.ready, self.vm, name, wanted.network, limit)
        elif (state := self.vm.state(name)) != DomainState.RUNNING:
            raise VmError(f"domain {name} is {state}", cause=self.vm.console(name)[-200:])
        self.progress.ready = time.time()


def remove_overlays(folder: Path, progress: Progress) -> None:
    """Removes the overlays of a switch, with what a guest has written to them."""
    guest.forget(folder)
    for image in progress.images:
        Path(image.overlay).unlink(missing_ok=True)
    try:
        (folder / OVERLAYS).rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:  # somebody else's file is in it: it stays, and is no reason to keep the substitute
        if error.errno != errno.ENOTEMPTY:
            raise
