"""An appliance that loses its power, twenty times: journal, images, undo and catalogue agree each time, and nothing
that the master was told is durable is missing.

The appliance runs in a machine, as its own unit; its store is a file system on a disk that loses at a power cut what
was not flushed (vmlab/volatile.py). The master is this host: a loop device under a writer of stamps. After each cut the
disk is looked at here, on a copy, while the machine goes on with the same disk: first as it lies there
(proof/remains.py), then the product opens it, and is judged by what shares no code with it.

The machine boots once. After a cut it starts from its memory of the moment before it first had that disk: it knows as
little of it as after a boot, and is there in seconds.

`python -m vmlab appliance [CUTS [SEED]]` prints what was found.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.setting import free_ports
from proof import journal, replay
from proof.applied import OpenedPoints
from proof.lab import SMALL_STEPS, Appliance, Engine, Lab, run, wait_for
from proof.oracle_a import KEEP_ALL, chosen
from proof.position import Position
from proof.remains import Chronicle, Look, Remains, digest
from proof.replay import Replay
from proof.stamp import SequenceRule, StampWriter
from proof.storms import why_differs
from rha.control import local
from vmlab import disk
from vmlab.machine import Machine
from vmlab.network import USER, Card
from vmlab.volatile import Fate, VolatileDisk

MIB = 1 << 20
CUTS, SEED = 20, 1
DISK_BYTES = 32 * MIB
STORE_BYTES = 3072 * MIB  # sparse
MOST_SECONDS = 6.0  # of work between the boot and the next cut
CONNECT_SECONDS = 240.0
BUSY_SECONDS = 3.0  # so long a cut waits for writes in the disk's cache
CACHED = (1, 1, 2, 4, 8, 16, 32)  # so many of them
MOST_INTERVALS = 100  # of undo, taken back after each cut
POINTS = 3  # opened after each cut
PORT = 7420
STORE = "/var/lib/rha/store"
MEMORY = Path("/dev/shm")

_LSN = re.compile(rb"LSN (\d+)")

Say = Callable[[str], None]


@dataclass
class Tally:
    """`cuts`: of the power; `lost`, `kept`, `torn`: writes in the disk's cache then; `undone`: intervals of undo taken
    back; `points`: opened and compared; `looks`: at the master's disk, met by the journal; `failures`: sentences."""

    cuts: int = 0
    lost: int = 0
    kept: int = 0
    torn: int = 0
    undone: int = 0
    points: int = 0
    looks: int = 0
    bookmarks: int = 0
    acknowledged_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def table(self) -> dict[str, str]:
        """Name → figure, as it is printed; every failure has a line of its own."""
        figures = {
            "power cuts": str(self.cuts),
            "writes in the cache": f"{self.lost} lost, {self.kept} kept, {self.torn} torn",
            "intervals taken back": str(self.undone),
            "points compared": str(self.points),
            "looks at the disk met": str(self.looks),
            "bookmarks kept": str(self.bookmarks),
            "bytes acknowledged": str(self.acknowledged_bytes),
        }
        return figures | {f"failure {i + 1}": failure for i, failure in enumerate(self.failures)}


def run_scene(cuts: int = CUTS, seed: int = SEED, say: Say = print) -> Tally:
    """Half a minute for each cut under TCG, and a few minutes more. Raises RhaError or AssertionError when master or
    machine do not do their part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp")))
        images = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-vm-", dir=MEMORY)))
        store = stack.enter_context(VolatileDisk(folder, "store", STORE_BYTES, seed))
        (port,) = free_ports(1)
        card = Card(USER.mac, forward=((port, PORT),))
        machine = stack.enter_context(Machine("appliance", folder, cards=[card], cpus=2))
        say(f"booted in {machine.start():.0f} s")
        (folder / "here").mkdir()
        lab = Lab(folder / "here", MEMORY, stack, settings=KEEP_ALL)
        scene = _Scene(machine, store, lab, port, images, random.Random(seed), say)
        scene.prepare(stack)
        for number in range(cuts):
            scene.cut(number)
        scene.end()
        return scene.tally


class _Scene:
    """The master here, the appliance there."""

    def __init__(
        self, machine: Machine, store: VolatileDisk, lab: Lab, port: int, images: Path, draw: random.Random, say: Say
    ) -> None:
        self._machine, self._store, self._lab, self._port = machine, store, lab, port
        self._images, self._draw, self._say = images, draw, say
        self._hardware = disk.Disk("store", store.file, served=store.socket)
        self.tally = Tally()
        self._bookmarks: dict[str, int] = {}

    def prepare(self, stack: ExitStack) -> None:
        """The appliance installed and enabled, the master in write order."""
        self._install()
        self._machine.keep()
        self._machine.attach(self._hardware)
        self._machine.run("mkfs.ext4", "-q", "-E", "nodiscard", self._hardware.path)
        self._begin()
        self._disk = self._lab.disk(DISK_BYTES)
        self._engine = self._lab.engine([self._disk.path], name=f"cut-{self._port}", ring="256MiB", port=self._port)
        self._engine.start()
        self._engine.wait_ordered(CONNECT_SECONDS)
        self._position = stack.enter_context(Position(self._engine.name))
        self._log = self._images / "log"
        self._stamps = StampWriter(self._log, [self._disk.path], seed=7, threads=8, pause_us=60_000, longest=32)
        stack.callback(self._stamps.stop)
        self._stamps.start()
        name = self._engine.name
        journals = self._lab.appliance.store / name / "journal"
        self._chronicle = Chronicle(journals, [self._images / "straight.raw"], (DISK_BYTES,), seed=7)
        self._say("in write order, under load")

    def _install(self) -> None:
        """As a user does: certificates, configuration, unit. Undo and journal go in small steps."""
        pki = self._lab.pki
        for name in ("ca.pem", "appliance-lab.pem", "appliance-lab.key"):
            self._machine.put(f"/etc/rha/pki/{name}", (pki / name).read_bytes())
        self._machine.put(
            "/etc/rha/appliance.toml",
            f'listen = "0.0.0.0:{PORT}"\nstore = "{STORE}"\nca = "/etc/rha/pki/ca.pem"\n'
            'certificate = "/etc/rha/pki/appliance-lab.pem"\nkey = "/etc/rha/pki/appliance-lab.key"\n' + KEEP_ALL,
        )
        self._machine.put(
            "/etc/systemd/system/rha-appliance.service.d/small.conf",
            "[Service]\nExecStart=\n"
            f'ExecStart=/opt/rha/bin/python -c "{SMALL_STEPS}" appliance --config /etc/rha/appliance.toml\n',
        )
        self._machine.sh(
            "cp /opt/rha/packaging/rha-appliance.service /etc/systemd/system/; systemctl daemon-reload;"
            f" mkdir -p {STORE}; PYTHONDONTWRITEBYTECODE=1 rha appliance --help >/dev/null"
        )

    def _begin(self) -> None:
        self._machine.sh(f"mount -o noatime {self._hardware.path} {STORE}; systemctl start rha-appliance")

    # Cuts -----------------------------------------------------------------------------------------------------

    def cut(self, number: int) -> None:
        """Works on for a moment, cuts the power, judges what is there while the machine boots again."""
        if number % 4 == 3:  # now and then before the master is back, in the middle of the appliance's own start
            time.sleep(self._draw.random() * MOST_SECONDS)
        else:
            self._wait_connected()
            self._bookmark(number)
            time.sleep(self._draw.random() * MOST_SECONDS)
        self._store.fail(BUSY_SECONDS, self._draw.choice(CACHED))
        self._machine.cut_power()
        fate = self._store.settle()
        acknowledged = self._position.acknowledged()
        with self._stamps.standing():  # its writes are past the cache of the device
            self._chronicle.expect(Look(self._position.now(), digest([self._disk.file.read_bytes()])))
        self._count(fate, acknowledged)
        copy = self._images.parent / f"{self._images.name}-copy.raw"
        try:
            run("cp", "--sparse=always", self._store.file, copy)
            begun = time.monotonic()
            self._machine.resume()
            self._machine.attach(self._hardware)
            self._begin()
            seconds = time.monotonic() - begun
            failures = [f"cut {number + 1}: {why}" for why in self._judge(copy, acknowledged, number)]
        finally:
            copy.unlink(missing_ok=True)
        self.tally.failures += failures
        self._say(
            f"cut {number + 1}: {fate.lost} lost, {fate.kept} kept, {fate.torn} torn; acknowledged up to LSN"
            f" {acknowledged}; {'; '.join(failures) or 'all there'}; back after {seconds:.0f} s"
        )

    def _count(self, fate: Fate, acknowledged: int) -> None:
        self.tally.cuts += 1
        self.tally.lost += fate.lost
        self.tally.kept += fate.kept
        self.tally.torn += fate.torn
        self.tally.acknowledged_bytes = acknowledged

    def _wait_connected(self) -> None:
        wait_for(
            lambda: self._engine.report()["connected"],
            CONNECT_SECONDS,
            lambda: (self._engine.report(), self._engine.log()[-2000:], self._machine.sh("journalctl -u rha-* -n 30")),
        )

    def _bookmark(self, number: int) -> None:
        """A name that the appliance has said yes to."""
        name = f"cut-{number}"
        answer = self._machine.call("rha", "bookmark", self._engine.name, name, timeout=60)
        if answer.code == 0:  # there may be no point yet
            self._bookmarks[name] = int(_LSN.findall(answer.stdout)[0])
            self.tally.bookmarks += 1

    # Judging --------------------------------------------------------------------------------------------------

    def _judge(self, copy: Path, acknowledged: int, number: int) -> Iterator[str]:
        """What is wrong with a store after a cut."""
        work = self._images / "work"
        work.mkdir()
        try:
            with _mounted(copy, self._lab.appliance.store):
                folder = self._lab.appliance.store / self._engine.name
                remains = Remains(folder, ["d0"], self._chronicle, work)
                yield from remains.faults(acknowledged, self._bookmarks, MOST_INTERVALS)
                self.tally.undone += remains.undone
                appliance = self._lab.appliance
                try:
                    appliance.start()
                    yield from self._judge_running(appliance, acknowledged, number)
                    appliance.stop()
                finally:
                    appliance.kill()  # else the file system stays in use, whatever it was
                yield from _redone(folder, remains)
        finally:
            shutil.rmtree(work)

    def _judge_running(self, appliance: Appliance, acknowledged: int, number: int) -> Iterator[str]:
        """By what the product makes of the store."""
        name = self._engine.name
        wait_for(lambda: _has_settled(appliance.report(name)), 120, appliance.log)
        report = appliance.report(name)
        if report["consistent"] is None or report["state"] == "failed":
            yield f"it has no image to boot: {report['why']}"
            return
        if report["consistent"]["lsn"] < acknowledged:
            yield f"its point is LSN {report['consistent']['lsn']}, {acknowledged} was acknowledged"
        if report["alarms"]:
            yield f"it alarms: {report['alarms']}"
        known = {mark["name"] for mark in local.call(appliance.socket, "points", scenario=name)["bookmarks"]}
        if missing := self._bookmarks.keys() - known:
            yield f"bookmarks are missing: {sorted(missing)}"
        yield from self._judge_points(appliance, number)

    def _judge_points(self, appliance: Appliance, number: int) -> Iterator[str]:
        """Some points of the window against the straight replay."""
        folder = appliance.store / self._engine.name / "journal"
        found = replay.scan(folder, journal.durable(folder))
        with (
            OpenedPoints(appliance.socket, self._engine.name, 1) as opened,
            tempfile.TemporaryDirectory(prefix="rha-vm-", dir=MEMORY) as name,
        ):
            oldest = opened.oldest()
            window = tuple(cut for cut in found.cuts if cut >= oldest)
            straight = Replay(folder, [Path(name) / "straight.raw"], found.sizes)
            for cut in chosen(found._replace(cuts=window), POINTS, number) if window else ():
                straight.to(cut)
                opened.to(cut)
                self.tally.points += 1
                if any(opened.differences(straight.files)):
                    yield f"the point at LSN {cut} is not the journal's replay"

    # The end --------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Everything quiet: disk, image and journal are one, there was never a second sync, nothing was lost."""
        self._wait_connected()
        self._stamps.stop()
        self._disk.sync()
        self._engine.wait_ordered(CONNECT_SECONDS)
        answer = self._engine.verify()
        if not (answer["equal"] and answer["quiet"]):
            self.tally.failures.append(f"rha verify says {answer}")
        self._engine.stop()
        self._machine.power_off()
        with _mounted(self._store.file, self._lab.appliance.store):
            self.tally.failures += self._last(self._engine)

    def _last(self, engine: Engine) -> Iterator[str]:
        folder = self._lab.appliance.store / engine.name
        if why := why_differs(folder / "images/d0.qcow2", self._disk.file):
            yield f"disk and image: {why}"
        found = replay.scan(folder / "journal")
        self._chronicle.to(json.loads((folder / "checkpoint.json").read_text())["position"])
        self.tally.looks = self._chronicle.looked
        yield from self._chronicle.faults
        if self._chronicle.unmet:
            yield f"the journal never came to {self._chronicle.unmet} looks at the disk"
        if (found.syncs, found.losses, found.generations) != (1, 0, 1):
            yield f"{found.syncs} syncs, {found.losses} gaps, {found.generations} generations: something was not there"
        end = Replay(folder / "journal", [self._images / "end.raw"], found.sizes)
        end.to_end()
        if lost := SequenceRule(self._log, found.sizes).lost_bytes(end.images):
            yield f"{lost} bytes of completed writes are missing"


def _has_settled(report: dict[str, Any]) -> bool:
    """Everything in the journal is in the images, or never will be."""
    is_applied = report["state"] == "consistent" and report["lag_bytes"] == 0
    return bool(is_applied or report["state"] == "failed")


def _redone(folder: Path, remains: Remains) -> Iterator[str]:
    """What the product has made of the store before it was stopped."""
    position = json.loads((folder / "checkpoint.json").read_text())["position"]
    if position != remains.end[0]:
        yield f"it stopped at position {position}, its journal was sound up to {remains.end[0]}"
    elif why := why_differs(folder / "images/d0.qcow2", remains.straight[0]):
        yield f"the image is not the journal's replay: {why}"


@contextmanager
def _mounted(image: Path, point: Path) -> Iterator[None]:
    """A file system of a raw file; its journal is replayed, as at a boot."""
    point.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount", device, point)
        try:
            yield
        finally:
            run("umount", "--lazy", point)  # what a judgement that broke off has open must not keep it mounted
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def words_of(words: Sequence[str]) -> tuple[int, int]:
    """CUTS and SEED of a command line."""
    given = [int(word) for word in words]
    return (given[0] if given else CUTS), (given[1] if len(given) > 1 else SEED)
