"""The step that adapts the substitute's guest, and the way back: what is wished, what was there before.

`guest.json` in the scenario's folder, outside the guest, is written once the guest was adapted and before it boots. An
overlay that was changed and has no such file was cut off, and is made anew with all steps from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from rha.appliance import catalog
from rha.errors import RhaError, VmError
from rha.image.storage_daemon import ImageSpec
from rha.scenario import Scenario
from rha.switch.plan import StepName
from rha.switch.progress import Progress
from rha.switch.runner import log
from rha.units import show_seconds
from rha.vm.base import Bus
from rha.vm.guest import drivers, outside, wanted
from rha.vm.guest.travel import Answer, Kept, Request

FILE = "guest.json"
REVERTED = "guest-reverted.json"  # the file again, once everything in it was put back
CHANGED = "guest-changed.json"  # what somebody has written on the substitute into files that were put back
ASSUMED: Bus = "virtio"  # where the image could not be asked; what rha protects is Linux


class Memory(msgspec.Struct, kw_only=True, frozen=True):
    """The file. Contents are base64."""

    version: int = 1
    system: str = ""
    kept: list[Kept] = []
    said: list[str] = []
    warnings: list[str] = []


def adapt(
    scenario: Scenario, folder: Path, progress: Progress, *, tcg: bool, make_overlays: Callable[[], None], limit: float
) -> None:
    """Adapts the guest in the overlays of `progress`; its sentences, warnings and the bus go there.

    Where it fails the overlays are made anew. Raises RhaError then, if the scenario says that the guest must be adapted
    and nobody forces.
    """
    forget(folder)
    disks = [ImageSpec(image.name, Path(image.overlay), "qcow2") for image in progress.images]
    try:
        answer = outside.run(disks, wanted.request(scenario, tcg=tcg), limit)
        if answer.warnings and scenario.vm.guest.required and not progress.forced:
            raise _not_as_wished(answer)
    except RhaError as error:
        make_overlays()
        if scenario.vm.guest.required and not progress.forced:
            raise
        answer = Answer(warnings=[f"NOT adapted: {error.what}: {error.cause}"], bus=ASSUMED)
        answer.bus_why = f"{ASSUMED}: assumed, as nobody could look into the guest"
    if answer.kept:
        remember(folder, answer)
    _note(progress, answer, looked_up=scenario.vm.bus == "auto")


def bus_of(scenario: Scenario, progress: Progress) -> Bus:
    """The scenario's word, else what was looked up; where nobody could look, because the scenario says so, a guess."""
    if scenario.vm.bus != "auto":
        return scenario.vm.bus
    return next((bus for bus in drivers.NEEDS if bus == progress.bus), ASSUMED)


def _not_as_wished(answer: Answer) -> RhaError:
    hint = "vm.guest in the scenario; required = false lets it boot as it is"
    return VmError("the guest cannot be adapted", cause="; ".join(answer.warnings), hint=hint)


def _note(progress: Progress, answer: Answer, *, looked_up: bool) -> None:
    if looked_up:
        progress.bus, progress.bus_why = answer.bus, answer.bus_why
    took = f"{show_seconds(answer.seconds)}, {show_seconds(answer.launch_seconds)} of it to start libguestfs"
    said = [*([answer.bus_why] if looked_up else []), *answer.said, *(f"WARNING: {text}" for text in answer.warnings)]
    progress.guest = [*said, *([took] if answer.seconds else [])]
    progress.steps[-1].sentence += f": {'; '.join(progress.guest)}"
    for sentence in progress.guest:
        log.info("%s: %s", StepName.ADAPT_GUEST, sentence)


# The way back ------------------------------------------------------------------------------------------------------


def revert(disks: Sequence[ImageSpec], folder: Path, *, tcg: bool, limit: float) -> list[str]:
    """Writes back into a guest that is off what was there before it was adapted; nothing to do when it was not. Done on
    the substitute's overlay before its clusters travel home, they bring it with them. Returns sentences. May be
    repeated.

    Raises RhaError; then some files may be as they were and others not.
    """
    memory = recall(folder)
    if memory is None:
        return ["the guest was not changed"]
    answer = outside.run(disks, Request(act="revert", tcg=tcg, kept=memory.kept), limit)
    said = answer.said
    if answer.kept:
        catalog.save(folder / CHANGED, answer.kept)
        names = ", ".join(one.path for one in answer.kept)
        said = [*said, f"changed on the substitute, kept in {folder / CHANGED}: {names}"]
    (folder / FILE).replace(folder / REVERTED)
    return [*said, *(f"WARNING: {text}" for text in answer.warnings)]


def adapt_again(scenario: Scenario, disks: Sequence[ImageSpec], folder: Path, *, tcg: bool, limit: float) -> list[str]:
    """Takes a `revert` back, also one that was cut off: the guest serves on as the substitute. What it has written
    stays, whatever fails here. Returns sentences. May be repeated.

    Raises RhaError.
    """
    revert(disks, folder, tcg=tcg, limit=limit)  # what was half put back must not be kept as the original
    if not (folder / REVERTED).exists():
        return ["the guest was not changed"]
    answer = outside.run(disks, wanted.request(scenario, tcg=tcg), limit)
    remember(folder, answer)
    (folder / REVERTED).unlink()
    return [*answer.said, *(f"WARNING: {text}" for text in answer.warnings)]


def remember(folder: Path, answer: Answer) -> None:
    """Raises StorageError."""
    memory = Memory(system=answer.system, kept=answer.kept, said=answer.said, warnings=answer.warnings)
    catalog.save(folder / FILE, memory)


def recall(folder: Path) -> Memory | None:
    """None: the guest was not changed. Raises StorageError when the file cannot be read."""
    return catalog.load(folder / FILE, Memory)


def forget(folder: Path) -> None:
    """The overlays are gone, or the guest in them is as it was."""
    for name in (FILE, REVERTED):
        (folder / name).unlink(missing_ok=True)
