"""The ways out of a split brain: the exact commands, in order, with the scenario's own names. Pure."""

from __future__ import annotations

import shlex
import time

import msgspec

from rha.switch.split import Evidence

SAVED = "/mnt"  # where the commands save the master's disks: a place that is not on them


class Act(msgspec.Struct, kw_only=True, frozen=True):
    """`on`: whose shell; `command`; `what`: it does, or is for."""

    on: str
    command: str
    what: str


class Way(msgspec.Struct, kw_only=True, frozen=True):
    """`title`: whose data goes on; `lost`: what becomes of the other side's."""

    title: str
    lost: str
    acts: list[Act]


def kept_name(decided: float) -> str:
    """Under which `rha discard` keeps what the substitute of a switch wrote: its time is the switch's."""
    return time.strftime("substitute-%Y%m%d-%H%M%S", time.localtime(decided))


def ways(evidence: Evidence, *, overwrites: bool) -> list[Way]:
    """Both of them. `overwrites`: a switchback has to be told that it may."""
    return [keep_substitutes(evidence, overwrites=overwrites), keep_masters(evidence)]


def keep_substitutes(evidence: Evidence, *, overwrites: bool) -> Way:
    """The master's disks are overwritten, so they are saved first: rha keeps nothing of them by itself."""
    name, host = evidence.scenario, evidence.master.host if evidence.master else "the master"
    stop = [Act(on=host, command=_stop(evidence), what="nothing is written there any more")] if evidence.units else []
    save = [
        Act(
            on=host,
            command=_save(name, disk, device),
            what=f"save {disk}, from a rescue system: it must not be mounted",
        )
        for disk, device in sorted(evidence.devices.items())
    ]
    flag = " --overwrite-master" if overwrites else ""
    return Way(
        title="keep the substitute's side",
        lost=f"what {host} wrote alone is overwritten; the copies that the commands make keep it",
        acts=[
            *stop,
            *save,
            Act(on=host, command=f"rha receive --scenario /etc/rha/{name}.toml", what="offer its disks, same system"),
            Act(on="appliance", command=f"rha switchback {name}{flag}", what="bring the substitute's disks home"),
            Act(on=host, command="reboot", what="once rha receive has ended with 0"),
        ],
    )


def _stop(evidence: Evidence) -> str:
    return f"systemctl stop {shlex.join(evidence.units)}"


def _save(name: str, disk: str, device: str) -> str:
    target = f"{SAVED}/{name}-{disk}.raw"
    return f"dd if={shlex.quote(device)} of={target} bs=4M conv=sparse,fsync status=progress"


def keep_masters(evidence: Evidence) -> Way:
    """The master goes on where it stands, its engine is let in again."""
    name, kept = evidence.scenario, kept_name(evidence.decided)
    here = [
        (f"rha discard {name}", "cut the substitute off, keep what it wrote"),
        ("rha status", "the master connects within a minute"),
        (f"rha mount {name} {SAVED} --at {kept}", f"look at its files; rha umount {name} {SAVED} ends that"),
        (f"rha restore {name} /PATH TARGET --at {kept}", "copy out what the master lacks"),
        *(
            (f"rha export {name} {name}-{disk}.qcow2 --disk {disk} --at {kept}", "keep all of it, as an image")
            for disk in sorted(evidence.devices)
        ),
        (f"rha kept {name} --drop {kept}", "when it is not needed any more"),
    ]
    return Way(
        title="keep the master's side",
        lost=f"what the substitute wrote is kept aside as {kept}, until you drop it",
        acts=[Act(on="appliance", command=command, what=what) for command, what in here],
    )
