"""The effects of a switchback's steps. Each may be done again after a crash in its middle, and taken back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rha.errors import NetworkError, StorageError, VmError
from rha.image.statuses import dirty_ranges
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.redirect import run as redirect
from rha.redirect.base import Place, replica_place
from rha.scenario import Scenario
from rha.switch import progress as ledger
from rha.switch import returned
from rha.switch.copying import Copy, CopyHost
from rha.switch.failover import remove_substitute
from rha.switch.passes import Pass
from rha.switch.progress import Progress
from rha.switch.ready import wait_ready
from rha.switch.returned import Returned
from rha.switch.runner import Effect, Say, log
from rha.switch.switchback import BackStep
from rha.units import show_seconds
from rha.vm.base import DomainState, VmHost

FOLDER = "back"  # sockets of a switchback, in the scenario's folder
END_SECONDS = 600.0  # for what a process holds to be on a busy disk
PRESS_SECONDS = 15.0  # a guest that is still booting takes no notice of the first press


class ReturnHost(CopyHost, Protocol):
    """What a switchback needs from the appliance, for one scenario. Everything may be called again after it was
    done."""

    @property
    def scenario(self) -> Scenario: ...

    @property
    def folder(self) -> Path: ...

    def why_not_overwrite(self) -> str:
        """The sentence of what the master wrote alone, or may have; empty: nothing that is known of. Raises
        StorageError."""

    def has_greeted(self) -> bool:
        """Has the master's engine come since the hand-over began? Then the master has booted from its disks."""

    def adapt_guest(self, images: Sequence[ledger.Image], *, tcg: bool) -> None:
        """What was changed inside the guest for the substitute, again; after `restore_guest`, the domain being off.
        `tcg`: no kvm on this host. Raises RhaError."""

    def restore_guest(self, images: Sequence[ledger.Image], *, tcg: bool) -> None:
        """The guest's own settings as they were on the master; the domain is off. What this writes travels. Raises
        RhaError."""

    def release(self) -> None:
        """Gives back the lease. Raises NetworkError."""

    def keep(self, images: Sequence[ledger.Image], moment: float, by: str) -> int:
        """Takes overlays into the replica's journal and images, durably: bytes. Raises StorageError."""

    def reopen(self) -> None:
        """The substitute is gone: the replica receives again. Raises StorageError."""


class Back:
    """The effects of the steps; results go into `progress`, which the runner saves. One thread's own, and closed by it:
    the storage daemon of the last pass dies with that thread."""

    def __init__(
        self,
        host: ReturnHost,
        vm: VmHost,
        progress: Returned,
        past: Progress,
        *,
        force: bool = False,
        say: Say = log.info,
    ) -> None:
        """`past`: the failover's progress."""
        self.host, self.vm, self.progress, self.past = host, vm, progress, past
        self._force, self._say = force, say
        self._stack = ExitStack()
        self._folder = host.folder / FOLDER
        disks = [(image.name, Path(image.overlay)) for image in past.images]
        self.copy = Copy(host, vm, past.domain, disks, self._folder, noted=self._note, say=say)
        self.effects: dict[str, Effect] = {
            BackStep.TRACK: Effect(lambda _: self._track(), self._untrack),
            BackStep.COPY: Effect(lambda _: self.copy.copy()),
            BackStep.CATCH_UP: Effect(lambda _: self.copy.catch_up(force=force)),
            BackStep.REVERT_REDIRECT: Effect(lambda _: self._revert_redirect(), self._redirect),
            BackStep.STOP_GUEST: Effect(self._stop_guest, self._start_guest),
            BackStep.RESTORE_GUEST: Effect(lambda _: self._restore_guest(), self._adapt_guest),
            BackStep.LAST_PASS: Effect(lambda _: self._last_pass()),
            BackStep.VERIFY: Effect(lambda _: self._verify()),
            BackStep.HAND_OVER: Effect(self._hand_over),
            BackStep.RELEASE: Effect(lambda _: host.release()),
            BackStep.KEEP: Effect(lambda _: self._keep()),
            BackStep.REMOVE: Effect(lambda _: self._remove()),
        }

    def close(self) -> None:
        """Lets go of everything that is open; the domain is left alone."""
        self.copy.let_go()
        self._stack.close()

    def _note(self, one: Pass) -> None:
        self.progress.passes = [*self.progress.passes, one]
        returned.store(self.host.folder, self.progress)

    # Beside the running guest ---------------------------------------------------------------------------------

    def _track(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.copy.begin()

    def _untrack(self) -> None:
        self.close()
        self.copy.end()

    # The pause ------------------------------------------------------------------------------------------------

    @property
    def _place(self) -> Place:
        return replica_place(self.host.scenario.name, self.host.folder)

    def _begin_pause(self) -> None:
        if self.progress.pause_begun is None:
            self.progress.pause_begun = time.time()

    def _revert_redirect(self) -> None:
        self._begin_pause()
        redirect.revert(self._place, self._say)

    def _redirect(self) -> None:
        redirect.apply(self.host.scenario.redirect, self._place, self._say)

    def _stop_guest(self, limit: float) -> None:
        self._begin_pause()
        self.copy.let_go()
        until = time.monotonic() + limit
        while not self._has_obeyed() and time.monotonic() < until:
            self.vm.press_power(self.past.domain)
            self._wait(self._has_obeyed, min(until, time.monotonic() + PRESS_SECONDS))
        if not self._has_obeyed():
            self._cut_power(limit)
        self._await_end()
        self.progress.stopped = time.time()

    def _has_obeyed(self) -> bool:
        """A press more would wait for an answer that does not come: the process only writes out what it holds."""
        return self.vm.is_going_down(self.past.domain) or self._is_off()

    def _is_off(self) -> bool:
        return self.vm.state(self.past.domain) in (DomainState.OFF, DomainState.ABSENT)

    def _await_end(self) -> None:
        """Of a guest that has switched itself off. Raises VmError when its process does not end."""
        self._wait(self._is_off, time.monotonic() + END_SECONDS)
        if not self._is_off():
            cause = f"its guest is off, its process is still there after {show_seconds(END_SECONDS)}"
            raise VmError(f"domain {self.past.domain} does not end", cause=cause, hint="dmesg; is its disk answering?")

    def _wait(self, is_so: Callable[[], bool], until: float) -> None:
        while not is_so() and time.monotonic() < until:
            time.sleep(0.1)

    def _cut_power(self, limit: float) -> None:
        if not self._force:
            raise VmError(
                f"the guest of {self.past.domain} does not shut down",
                cause=f"asked for {show_seconds(limit)}; it said last: {self.vm.console(self.past.domain)[-200:]}",
                hint="shut it down from inside, or --force: its power is cut, its file systems recover when they boot",
            )
        self._say(f"the guest has not shut down within {show_seconds(limit)}: its power is cut (forced)")
        self.vm.destroy(self.past.domain)

    def _start_guest(self) -> None:
        """The storage daemon lets go of the overlays first: libvirt's QEMU wants them alone."""
        self.close()
        if self.vm.is_going_down(self.past.domain):
            self._await_end()
        self.vm.start(self.past.domain)
        wanted = self.host.scenario.vm
        if wanted.ready:
            wait_ready(wanted.ready, self.vm, self.past.domain, wanted.network, wanted.ready_timeout)

    def _restore_guest(self) -> None:
        self.host.restore_guest(self.past.images, tcg=self.past.accelerator != "kvm")

    def _adapt_guest(self) -> None:
        self.close()
        if self._is_off():
            self.host.adapt_guest(self.past.images, tcg=self.past.accelerator != "kvm")

    def _last_pass(self) -> None:
        """What the last bitmap holds: what the guest wrote to its end, and what was written back after that."""
        specs = [ImageSpec(image.name, Path(image.overlay), "qcow2") for image in self.past.images]
        daemon = self._stack.enter_context(StorageDaemon(specs, self._folder, read_only=True))
        bitmap = self.copy.last_bitmap
        ranges = [dirty_ranges(daemon.socket, daemon.export_bitmap(spec.name, bitmap), bitmap) for spec in specs]
        self.copy.last_pass(daemon.socket, ranges)

    def _verify(self) -> None:
        """The master reads back from its disks what was sent last; what was sent before, a pass has read back."""
        progress = self.progress
        found = self.copy.verify(everything=progress.verify_all)
        self.close()
        if found:
            disk, offset, length = found[0]
            raise StorageError(
                "the master's disks are not equal to the substitute's",
                cause=f"{len(found)} ranges; the first: {length} bytes at {offset} of {self.past.images[disk].name}",
                hint="its device does not return what was written to it: dmesg on the master; another disk",
            )
        progress.verified_bytes = self.copy.sending.tally.compared

    # Past return ----------------------------------------------------------------------------------------------

    def _hand_over(self, limit: float) -> None:
        receiver = self.host.receiver()
        if receiver is not None:
            receiver.ask("finish", limit)
            receiver.stop()
        elif not self.host.has_greeted():
            raise NetworkError(
                f"whether the master of {self.host.scenario.name} knows that it may boot is not known",
                cause="no receiver is connected; its disks are verified equal",
                hint="rha receive on the master once more, or boot it: its engine's greeting will do",
            )
        if self.progress.pause_begun is not None:
            self.progress.pause_seconds = time.time() - self.progress.pause_begun

    def _keep(self) -> None:
        moment = self.progress.stopped or time.time()
        self.progress.kept_bytes = self.host.keep(self.past.images, moment, self.progress.trigger.by)

    def _remove(self) -> None:
        remove_substitute(self.host.folder, self.vm, self.host.scenario.name, say=self._say)
        self.host.reopen()
        shutil.rmtree(self._folder, ignore_errors=True)
