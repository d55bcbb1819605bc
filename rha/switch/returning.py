"""Does a switchback: plans, does each step, keeps its progress on disk. After `kill -9` it goes on, or takes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from rha.appliance.sending import Sending, Tally, Touched
from rha.errors import NetworkError, RhaError, StateError, StorageError, VmError
from rha.image import formats
from rha.image.client import ImageReader
from rha.image.statuses import Range, dirty_ranges
from rha.image.storage_daemon import ImageSpec, StorageDaemon
from rha.redirect import run as redirect
from rha.redirect.base import Place, replica_place
from rha.scenario import Scenario
from rha.switch import progress as ledger
from rha.switch import returned, switches
from rha.switch.failover import remove_substitute
from rha.switch.passes import Pass, next_act
from rha.switch.plan import Step
from rha.switch.progress import RUNNING, SERVING, Progress, Trigger
from rha.switch.ready import wait_ready
from rha.switch.returned import DONE, Returned
from rha.switch.runner import Effect, Run, Say, alone, log
from rha.switch.switchback import BackStep, World, is_past_return, plan, why_not_fitting
from rha.units import show_bytes, show_seconds
from rha.vm.base import DomainState, VmHost, domain_name
from rha.vm.live_disks import LiveDisks

FOLDER = "back"  # sockets of a switchback, in the scenario's folder
MOST_PAUSE_SECONDS = 60.0
PRESS_SECONDS = 15.0  # a guest that is still booting takes no notice of the first press
SYNC_SECONDS = 600.0


class Receiver(Protocol):
    """What is needed of rha.appliance.offered.Offered."""

    peer: str

    @property
    def sizes(self) -> dict[str, int]: ...
    def want(self, disk: int, unit: int, ranges: list[Range]) -> None: ...
    def hashes(self) -> tuple[int, int, int, bytes]: ...
    def send(self, disk: int, offset: int, data: bytes) -> None: ...
    def send_zeros(self, disk: int, offset: int, length: int) -> None: ...
    def ask(self, verb: str, limit: float) -> Any: ...


class ReturnHost(Protocol):
    """What a switchback needs from the appliance, for one scenario. Everything may be called again after it was
    done."""

    @property
    def scenario(self) -> Scenario: ...

    @property
    def folder(self) -> Path: ...

    def receiver(self) -> Receiver | None:
        """The connected one; None: nobody offers disks."""

    def rates(self) -> tuple[int, int]:
        """Bytes per second that may be read of the substitute's disks, and sent; 0: no limit."""

    def adapt_guest(self, overlays: Sequence[Path]) -> None:
        """What was changed inside the guest for the substitute, again; after `restore_guest`, the domain being off."""

    def restore_guest(self, overlays: Sequence[Path]) -> None:
        """The guest's own settings as they were on the master; the domain is off. What this writes travels."""

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
        self._readers = ExitStack()
        overlays = [(image.name, Path(image.overlay)) for image in past.images]
        self._live = LiveDisks(vm, past.domain, overlays, host.folder / FOLDER)
        self._receiver: Receiver | None = None
        self.sending: Sending | None = None
        self.effects: dict[str, Effect] = {
            BackStep.TRACK: Effect(lambda _: self._track(), self._untrack),
            BackStep.COPY: Effect(lambda _: self._copy()),
            BackStep.CATCH_UP: Effect(lambda _: self._catch_up()),
            BackStep.REVERT_REDIRECT: Effect(lambda _: self._revert_redirect(), self._redirect),
            BackStep.STOP_GUEST: Effect(self._stop_guest, self._start_guest),
            BackStep.RESTORE_GUEST: Effect(lambda _: host.restore_guest(self._overlays), self._adapt_guest),
            BackStep.LAST_PASS: Effect(lambda _: self._last_pass()),
            BackStep.VERIFY: Effect(lambda _: self._verify()),
            BackStep.HAND_OVER: Effect(self._hand_over),
            BackStep.RELEASE: Effect(lambda _: host.release()),
            BackStep.KEEP: Effect(lambda _: self._keep()),
            BackStep.REMOVE: Effect(lambda _: self._remove()),
        }

    def close(self) -> None:
        """Lets go of everything that is open; the domain is left alone."""
        self._readers.close()
        self._stack.close()

    @property
    def _overlays(self) -> list[Path]:
        return [Path(image.overlay) for image in self.past.images]

    # Beside the running guest ---------------------------------------------------------------------------------

    def _track(self) -> None:
        receiver = self.host.receiver()
        if receiver is None:
            raise NetworkError("the receiver is gone", cause="it was there a moment ago", hint="rha receive")
        (self.host.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        self._live.begin()
        readers = self._read_from(self._live.socket)
        sizes = [reader.bytes for reader in readers]
        names = [image.name for image in self.past.images]
        if error := why_not_fitting(dict(zip(names, sizes, strict=True)), receiver.sizes):
            raise error
        self._receiver = receiver
        self._sizes = sizes
        self._prepare(readers, Touched(sizes))

    def _untrack(self) -> None:
        self.close()
        self._live.end()

    def _read_from(self, socket: Path) -> list[ImageReader]:
        return [self._readers.enter_context(ImageReader(socket, image.name)) for image in self.past.images]

    def _prepare(self, readers: Sequence[ImageReader], touched: Touched) -> None:
        assert self._receiver is not None
        self.sending = Sending(self._receiver, readers, touched, rates=self.host.rates, check=lambda: None)

    def _copy(self) -> None:
        self._pass([[(0, size)] for size in self._sizes])

    def _pass(self, ranges: Sequence[Sequence[Range]]) -> None:
        assert self.sending is not None
        assert self._receiver is not None
        for disk, own in enumerate(ranges):
            for offset, length in own if self.progress.passes else ():
                self.sending.touched.add(disk, offset, length)
        tally = self.sending.bring(ranges)
        self._receiver.ask("sync", SYNC_SECONDS)
        self._note(tally)

    def _note(self, tally: Tally) -> None:
        one = Pass(
            number=len(self.progress.passes),
            compared=tally.compared,
            sent=tally.differing,
            seconds=time.monotonic() - tally.begun,
        )
        self.progress.passes = [*self.progress.passes, one]
        returned.store(self.host.folder, self.progress)
        self._say(
            f"pass {one.number}: compared {show_bytes(one.compared)}, sent {show_bytes(one.sent)} "
            f"in {show_seconds(one.seconds)}"
        )

    def _catch_up(self) -> None:
        while True:
            self._must_run()
            found = next_act(self.progress.passes, self._live.dirty_bytes(), MOST_PAUSE_SECONDS)
            self._say(found.why)
            if found.act == "refuse" and not self._force:
                raise StateError(
                    "the substitute writes faster than its writes travel",
                    cause=found.why,
                    hint="when less is going on, again; or --force: the pause is as long as it says",
                )
            if found.act != "pass":
                return
            self._pass(self._live.swap())

    def _must_run(self) -> None:
        state = self.vm.state(self.past.domain)
        if state != DomainState.RUNNING:
            raise VmError(f"domain {self.past.domain} is {state}", cause="it ended while its disks were copied")

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
        self._readers.close()  # a reader that is connected would keep the domain from ending its export
        until = time.monotonic() + limit
        while not self._is_off():
            self.vm.press_power(self.past.domain)
            self._wait_off(min(until, time.monotonic() + PRESS_SECONDS))
            if time.monotonic() >= until:
                self._cut_power(limit)
                break
        self.progress.stopped = time.time()

    def _is_off(self) -> bool:
        return self.vm.state(self.past.domain) in (DomainState.OFF, DomainState.ABSENT)

    def _wait_off(self, until: float) -> None:
        while not self._is_off() and time.monotonic() < until:
            time.sleep(0.1)

    def _cut_power(self, limit: float) -> None:
        if self._is_off():
            return
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
        self.vm.start(self.past.domain)
        wanted = self.host.scenario.vm
        if wanted.ready:
            wait_ready(wanted.ready, self.vm, self.past.domain, wanted.network, wanted.ready_timeout)

    def _adapt_guest(self) -> None:
        self.close()
        if self._is_off():
            self.host.adapt_guest(self._overlays)

    def _last_pass(self) -> None:
        """Everything that any bitmap holds still: what the guest wrote to its end, and what was written back after."""
        assert self.sending is not None
        specs = [ImageSpec(image.name, Path(image.overlay), "qcow2") for image in self.past.images]
        daemon = StorageDaemon(specs, self.host.folder / FOLDER, read_only=True)
        self._stack.enter_context(daemon)
        bitmap = self._live.last_bitmap
        ranges = [dirty_ranges(daemon.socket, daemon.export_bitmap(spec.name, bitmap), bitmap) for spec in specs]
        self._prepare(self._read_from(daemon.socket), self.sending.touched)
        self._pass(ranges)

    def _verify(self) -> None:
        """The master reads back from its disks: what it answers was on stable storage."""
        assert self.sending is not None
        everything = [[(0, size)] for size in self._sizes]
        ranges = everything if self.progress.verify_all else self.sending.touched.ranges()
        found = self.sending.differences(ranges)
        self.close()
        if found:
            disk, offset, length = found[0]
            raise StorageError(
                "the master's disks are not equal to the substitute's",
                cause=f"{len(found)} ranges; the first: {length} bytes at {offset} of {self.past.images[disk].name}",
                hint="its device does not return what was written to it: dmesg on the master; another disk",
            )
        self.progress.verified_bytes = self.sending.tally.compared
        self.progress.verified = "everything" if self.progress.verify_all else "what was sent or written"

    # Past return ----------------------------------------------------------------------------------------------

    def _hand_over(self, limit: float) -> None:
        receiver = self.host.receiver()
        if receiver is None:
            raise NetworkError(
                f"whether the master of {self.host.scenario.name} knows that it may boot is not known",
                cause="no receiver is connected; its disks are verified equal",
                hint="rha receive on the master once more, or boot it: its engine's greeting will do",
            )
        receiver.ask("finish", limit)
        if self.progress.pause_begun is not None:
            self.progress.pause_seconds = time.time() - self.progress.pause_begun

    def _keep(self) -> None:
        moment = self.progress.stopped or time.time()
        self.progress.kept_bytes = self.host.keep(self.past.images, moment, self.progress.trigger.by)

    def _remove(self) -> None:
        remove_substitute(self.host.folder, self.vm, self.host.scenario.name, say=self._say)
        self.host.reopen()


class _Run(Run):
    """Keeps its progress in a file of its own."""

    def store(self) -> None:
        assert isinstance(self.progress, Returned)
        returned.store(self.folder, self.progress)


def look(host: ReturnHost, vm: VmHost, *, force: bool = False, verify_all: bool = False) -> World:
    """The snapshot that `plan` wants. Raises StorageError, VmError."""
    past, own = ledger.load(host.folder), returned.load(host.folder)
    receiver = host.receiver()
    return World(
        scenario=host.scenario,
        serving=bool(past and past.state == SERVING),
        domain=vm.state(domain_name(host.scenario.name)),
        sizes=_sizes(past),
        offered=receiver.sizes if receiver else None,
        redirected=redirect.standing(replica_place(host.scenario.name, host.folder)) is not None,
        begun=own.begun if own else frozenset(),
        ended=own.ended if own else frozenset(),
        force=force,
        verify_all=verify_all,
    )


def _sizes(past: Progress | None) -> dict[str, int]:
    return {image.name: formats.info(Path(image.overlay)).virtual_size for image in past.images} if past else {}


def run_switchback(
    host: ReturnHost,
    vm: VmHost,
    cause: Trigger,
    *,
    force: bool = False,
    verify_all: bool = False,
    say: Say = log.info,
    watch: Callable[[Back], None] = lambda _: None,
) -> Returned:
    """Brings the substitute's disks home and gives the service back. `watch` gets what does it, for reports.

    Returns the progress in state `done`. What fails before the hand-over is taken back and raised; from then on the
    state stays, with its name, and `go_on` goes on. Raises StateError, DeviceError when the plan refuses.
    """
    with alone(host.folder):
        todo = plan(look(host, vm, force=force, verify_all=verify_all))
        past = ledger.load(host.folder)
        assert past is not None
        progress = returned.load(host.folder) or Returned(
            scenario=host.scenario.name, trigger=cause, verify_all=verify_all, domain=past.domain, images=past.images
        )
        back = Back(host, vm, progress, past, force=force, say=say)
        watch(back)
        _do_all(_Run(host.folder, progress, back.effects, say), todo, back)
    return progress


def _do_all(run: _Run, todo: Sequence[Step], back: Back, *, again: bool = False) -> None:
    """`again`: a step that failed is tried once more, and its failure is known already."""
    begun, progress = time.time(), back.progress
    if again:
        names = {step.name for step in todo}
        progress.steps = [record for record in progress.steps if record.name not in names]
    try:
        progress.state, progress.why = RUNNING, ""
        for step in todo:
            run.do(step)
    except Exception as error:
        back.close()
        if not is_past_return(progress.begun):
            why = error.what if isinstance(error, RhaError) else repr(error)
            _take_back(run, f"{progress.steps[-1].name}: {why}" if progress.steps else why, begun)
        elif not again:
            switches.record(run.folder, progress, begun)
        raise
    finally:
        back.close()
    progress.state, progress.why = DONE, outcome(progress)
    switches.record(run.folder, progress, begun)
    (run.folder / returned.FILE).unlink(missing_ok=True)
    run.say(progress.sentence())


def _take_back(run: _Run, why: str, begun: float) -> None:
    """The substitute serves as before. Raises what cannot be taken back; it is tried again then."""
    run.roll_back(why)
    switches.record(run.folder, run.progress, begun)
    (run.folder / returned.FILE).unlink(missing_ok=True)


def go_on(host: ReturnHost, vm: VmHost, say: Say = log.info) -> bool:
    """After a crash, or a failure past return: goes on, or takes back. False when there is nothing to do.

    Raises what fails; may be called again.
    """
    if returned.load(host.folder) is None:
        return False
    with alone(host.folder):
        progress, past = returned.load(host.folder), ledger.load(host.folder)
        if progress is None:
            return False
        if past is None:  # the last step had removed the substitute
            past = Progress(scenario=progress.scenario, trigger=progress.trigger, images=progress.images)
            past.domain = progress.domain
        back = Back(host, vm, progress, past, say=say)
        run = _Run(host.folder, progress, back.effects, say)
        if is_past_return(progress.begun):
            _do_all(run, plan(look(host, vm)), back, again=True)
        else:
            _take_back(run, "the appliance was stopped in the middle", time.time())
    return True


def outcome(progress: Returned) -> str:
    """The last sentence."""
    pause = "" if progress.pause_seconds is None else f"; nobody served for {show_seconds(progress.pause_seconds)}"
    return (
        f"compared {show_bytes(progress.compared_bytes)}, sent {show_bytes(progress.sent_bytes)} in "
        f"{len(progress.passes)} passes; {progress.verified} is equal on the master's disks by hash "
        f"({show_bytes(progress.verified_bytes)}){pause}; the replica has taken in {show_bytes(progress.kept_bytes)}"
    )
