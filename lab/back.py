"""There and back: the server hands over, is repaired, takes home what its substitute has, and serves again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from demo.product import RHA
from lab import SCENARIO, WORK, database, planned, setting
from lab.judge import Journey, Sites, judge_journey
from lab.places import BITS, HOST, MASTER
from lab.process import Process
from lab.result import Result
from lab.scene import BEHIND_ITSELF, REDIRECT_SECONDS, SERVE_SECONDS
from lab.stage import Stage
from rha.errors import StateError
from rha.units import show_seconds
from vmlab.disk import Disk
from vmlab.machine import Machine
from vmlab.site import why_not_equal

RECEIVER = "rha-receive"
OFFER_SECONDS = 120.0
BACK_SECONDS = 1800.0
RECEIVED_SECONDS = 60.0
MERGED_SECONDS = 120.0


def there_and_back(stage: Stage, result: Result) -> None:
    """The client commits all the time, and no acknowledged commit may be missing on the repaired server."""
    planned.hand_over(stage, result)
    stage.machine.cut_power()
    with _rescue(stage) as rescue:
        _take_home(stage, rescue)
    _compare(stage)
    served = stage.acknowledged("west", HOST)[-1]
    stage.narrator.say(f"the repaired server has booted in {show_seconds(stage.machine.start())}")
    stage.wait("the client's way home", REDIRECT_SECONDS, lambda: stage.last_address("west") == MASTER)
    first = next(one for one in stage.acknowledged("west", MASTER) if one.id > served.id)
    result.home_seconds = (first.acked or 0.0) - (served.acked or 0.0)
    stage.narrator.say(f"the client commits there, {show_seconds(result.home_seconds)} after its last commit before")
    stage.master.wait_ordered()
    stage.narrator.say("the server is protected again, in write order")
    stage.serve(SERVE_SECONDS)
    _judge(stage, result)


@contextlib.contextmanager
def _rescue(stage: Stage) -> Iterator[Machine]:
    """The server's disks in a machine that boots from another one: the rescue system. It has rha, the scenario's file
    and the certificates."""
    card = stage.places.west.card()
    disks = [Disk(f"old-{name}", file) for name, file in stage.disks.by_name().items()]
    with Machine("rescue", WORK, disks=disks, cards=[card], memory_mib=768, cpus=2) as rescue:
        took = rescue.start()
        rescue.address(card, f"{MASTER}/{BITS}")
        for path, content in stage.files().items():
            rescue.put(f"/{path}", content)
        stage.narrator.say(f"a rescue system runs on the server, booted in {show_seconds(took)}")
        yield rescue


def _take_home(stage: Stage, rescue: Machine) -> None:
    """`rha receive` on the one side, `rha switchback` on the other; both have to end well."""
    offered = " ".join(f"--disk {disk.name.removeprefix('old-')}={disk.path}" for disk in rescue.disks)
    words = f"rha receive --scenario /etc/rha/{SCENARIO}.toml {offered} --yes"
    rescue.sh(f"systemd-run --quiet --unit {RECEIVER} --property RemainAfterExit=yes {words}")
    stage.wait("rha receive", OFFER_SECONDS, lambda: _is_offered(stage))
    stage.narrator.say("rha receive: its disks are offered to the appliance")
    words_here = [
        "env",
        f"RHA_RUN_DIR={stage.site.run_dir}",
        str(RHA),
        "switchback",
        SCENARIO,
        "--yes",
        "--reason",
        "lab",
    ]
    order = Process(words_here, WORK / "switchback.log")
    stage.cleanup(order.stop)
    stage.wait("rha switchback", BACK_SECONDS, lambda: order.ended is not None)
    said = (WORK / "switchback.log").read_text()
    if order.ended:
        raise StateError(f"rha switchback ended with {order.ended}", cause=" | ".join(said.splitlines()[-8:]))
    ended = f"test $(systemctl show --property SubState --value {RECEIVER}) = exited"
    rescue.wait_until(ended, RECEIVED_SECONDS)
    stage.narrator.say(f"rha switchback: {stage.appliance_says()}")


def _is_offered(stage: Stage) -> bool:
    report = stage.observer.appliance
    return report is not None and report.back is not None and bool(report.back.receiver)


def _compare(stage: Stage) -> None:
    """What came home, by QEMU's own tool, with what the replica holds, both sides being off. Raises StateError."""
    stage.wait("the end of the replica's overlays", MERGED_SECONDS, lambda: not _overlays(stage))
    stage.site.stop()
    for name, file in stage.disks.by_name().items():
        if why := why_not_equal(stage.site.image(SCENARIO, name), file, 0, file.stat().st_size):
            raise StateError(f"disk {name} did not come home as it was", cause=why)
    stage.site.start()
    stage.narrator.say("the server's disks are equal to the replica's, says qemu-img compare")


def _overlays(stage: Stage) -> list[Path]:
    """What a sync was applied to until it was complete: the images are behind until it is merged into them."""
    return list(stage.site.image(SCENARIO, "system").parent.glob("*.sync.qcow2"))


def _judge(stage: Stage, result: Result) -> None:
    stage.stop_clients()
    stage.machine.cut_power()
    attempts = {name: stage.attempts(name) for name in stage.attempts_of}
    sites = Sites(setting.service(stage.guard), HOST, BEHIND_ITSELF)
    found = judge_journey(Journey(sites, attempts, database.read_disks(stage.disks, WORK)))
    result.commits_acknowledged, result.commits_lost = found.acknowledged, found.lost
    result.rpo_seconds = found.rpo_seconds
    result.why = "; ".join(found.faults)
    stage.narrator.say(
        f"{found.acknowledged} commits acknowledged, {found.lost} lost; {result.why or 'nothing against it'}"
    )
