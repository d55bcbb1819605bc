"""The effects of a test boot's steps, and how each is taken back; what a test needs of its appliance, and what it keeps
on disk."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from rha.errors import VmError
from rha.image import formats
from rha.report import CheckReport, Point
from rha.scenario import Forward, Scenario
from rha.switch import bootreport, guest
from rha.switch.bootcheck import Guest
from rha.switch.bootplan import NEWEST, BootStep, address_of, domain_of_test, guest_ports, ready_check, tested
from rha.switch.lag import Behind, Lag
from rha.switch.progress import Image, Progress
from rha.switch.ready import last_words
from rha.switch.runner import Effect
from rha.vm.accelerator import Accelerator
from rha.vm.base import DomainState, VmHost, VmSpec
from rha.vm.card import network_of
from rha.vm.firmware import choose_firmware


class BootDisks(NamedTuple):
    """An open point: for each disk, in the scenario's order, a raw file to be read and a qcow2 overlay on it. What is
    written there is thrown away."""

    point: Point
    disks: list[tuple[Path, Path]]


class BootHost(Protocol):
    """What a test needs from the appliance, for one scenario. `folder`: the scenario's; `store`: the outermost folder
    of the appliance, above it; `scripts`: the administrator's."""

    @property
    def scenario(self) -> Scenario: ...

    @property
    def folder(self) -> Path: ...

    @property
    def store(self) -> Path: ...

    @property
    def scripts(self) -> Path: ...

    def why_switched(self) -> str | None:
        """What stands in the way of a test: a switch has begun, as a sentence; None: nothing."""

    def find_point(self, at: str) -> None:
        """Raises StateError when there is no such point, StorageError."""

    def open_point(self, at: str) -> BootDisks:
        """Raises StateError when there is no such point, StorageError, HostError."""

    def close_point(self) -> None:
        """What was opened, if anything, with all that was written. Raises StorageError."""

    def behind(self) -> Behind: ...


class BootProgress(Progress, kw_only=True):
    """The file. `at`: the point that was asked for; `report`: name of the report's folder; `outcome`, `outcome_why`:
    empty until they are known; `screen`: the picture's file, or why there is none."""

    at: str = NEWEST
    report: str = ""
    outcome: str = ""
    outcome_why: str = ""
    screen: str = ""
    memory: int = 0
    cpus: int = 0
    forwards: list[Forward] = msgspec.field(default_factory=list)
    checks: list[CheckReport] = msgspec.field(default_factory=list)
    lag: dict[str, Lag] = msgspec.field(default_factory=dict)


class Effects:
    """The effects of a test's steps, by their names."""

    def __init__(
        self,
        host: BootHost,
        vm: VmHost,
        progress: BootProgress,
        ended: Callable[[], str],
        choose_accelerator: Callable[[str], Accelerator],
    ) -> None:
        """`ended`: why the test is to end early, empty while it is not."""
        self._host, self._vm, self._progress, self._scenario = host, vm, progress, host.scenario
        self._ended, self._choose = ended, choose_accelerator
        self._until = time.monotonic() + host.scenario.test.limit
        self.all: dict[str, Effect] = {
            BootStep.OPEN_POINT: Effect(lambda _: self._open(), host.close_point),
            BootStep.ADAPT_GUEST: Effect(self._adapt),
            BootStep.DEFINE_DOMAIN: Effect(lambda _: self._define(), lambda: undefine(vm, progress.scenario)),
            BootStep.START_DOMAIN: Effect(lambda _: self._start(), lambda: destroy(vm, progress.scenario)),
            BootStep.WAIT_READY: Effect(lambda _: self._wait_ready()),
            BootStep.CHECK: Effect(lambda _: self._check()),
            BootStep.SETTLE: Effect(lambda limit: self._guest().rest(limit)),
        }

    def _open(self) -> None:
        opened = self._host.open_point(self._progress.at)
        self._progress.point = opened.point
        self._progress.images = [
            Image(name=disk.name, path=str(file), format="raw", overlay=str(overlay))
            for disk, (file, overlay) in zip(self._scenario.disk, opened.disks, strict=True)
        ]

    def _adapt(self, limit: float) -> None:
        """As a failover does it, and what it finds is the report's."""
        tcg = self._choose(self._scenario.vm.accelerator).name == "tcg"
        make = self._make_overlays
        guest.adapt(tested(self._scenario), self._folder, self._progress, tcg=tcg, make_overlays=make, limit=limit)
        guest.forget(self._folder)  # nothing is put back: the overlays are thrown away

    def _make_overlays(self) -> None:
        for image in self._progress.images:
            Path(image.overlay).unlink()
            formats.overlay(Path(image.overlay), Path(image.path), image.format)

    @property
    def _folder(self) -> Path:
        return self._host.folder / bootreport.FOLDER / self._progress.report

    def _define(self) -> None:
        progress, wanted = self._progress, self._scenario.vm
        images = [(Path(image.path), image.format) for image in progress.images]
        overlays = [Path(image.overlay) for image in progress.images]
        first, progress.firmware, progress.firmware_why = choose_firmware(wanted.firmware, images)
        accelerator = self._choose(wanted.accelerator)
        progress.accelerator, progress.accelerator_why = accelerator.name, accelerator.why
        bus = guest.bus_of(self._scenario, progress)
        progress.bus = bus
        progress.forwards = forwards(guest_ports(self._scenario))
        self._vm.define(
            VmSpec(
                name=progress.domain,
                scenario=self._scenario.name,
                memory=progress.memory,
                cpus=progress.cpus,
                firmware="uefi" if progress.firmware == "uefi" else "bios",
                bus=bus,
                accelerator=accelerator.name,
                disks=(overlays[first], *overlays[:first], *overlays[first + 1 :]),
                backing=tuple(path for path, _ in images),
                network=msgspec.structs.replace(network_of(tested(self._scenario)), forward=progress.forwards),
                folder=self._folder,
                store=self._host.store,
                isolated=True,
                guest_address=address_of(self._scenario),
            )
        )

    def _start(self) -> None:
        self._progress.started = time.time()
        self._vm.start(self._progress.domain)

    def _guest(self) -> Guest:
        progress = self._progress
        return Guest(
            vm=self._vm,
            domain=progress.domain,
            forwards=tuple(progress.forwards),
            until=self._until,
            scripts=self._host.scripts,
            words=script_words(self._host.folder, progress),
            ended=self._ended,
        )

    def _wait_ready(self) -> None:
        ready, progress = ready_check(self._scenario), self._progress
        assert ready is not None
        answer = self._guest().ask(ready)
        progress.checks = [answer]
        if not answer.answered:
            raise VmError(f"the guest is not ready: {answer.why}", cause=last_words(self._vm, progress.domain))
        progress.ready = time.time()

    def _check(self) -> None:
        guest, progress = self._guest(), self._progress
        for check in self._scenario.test.check:
            progress.checks = [*progress.checks, guest.ask(check)]
        failed = [check.why for check in progress.checks if not check.answered]
        if failed:
            raise VmError("; ".join(failed), cause=last_words(self._vm, progress.domain))
        progress.ready = progress.ready or time.time()


def forwards(ports: Sequence[int]) -> list[Forward]:
    """From ports of loopback that nobody has now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in ports]
    try:
        free = [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
    return [Forward(host_port=host, guest_port=guest) for host, guest in zip(free, ports, strict=True)]


def script_words(scenario_folder: Path, progress: BootProgress) -> dict[str, str]:
    """What a script of a test finds in its environment (docs/test.md)."""
    point = progress.point
    return {
        "RHA_ACT": "test",
        "RHA_SCENARIO": progress.scenario,
        "RHA_DOMAIN": progress.domain,
        "RHA_CONSOLE": str(scenario_folder / bootreport.FOLDER / progress.report / bootreport.CONSOLE),
        "RHA_POINT_LSN": str(point.lsn) if point else "",
        "RHA_POINT_TIME": f"{point.time:.3f}" if point else "",
        **{f"RHA_PORT_{forward.guest_port}": f"{forward.host}:{forward.host_port}" for forward in progress.forwards},
    }


def destroy(vm: VmHost, scenario: str) -> None:
    """Cuts the power of a scenario's test, if the domain is ours."""
    name = domain_of_test(scenario)
    if vm.owner(name) == scenario:
        vm.destroy(name)


def undefine(vm: VmHost, scenario: str) -> None:
    """Forgets the domain of a scenario's test, if it is ours."""
    name = domain_of_test(scenario)
    if vm.owner(name) == scenario:
        if vm.state(name) not in (DomainState.OFF, DomainState.CRASHED):
            vm.destroy(name)
        vm.undefine(name)
