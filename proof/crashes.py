"""The appliance killed, two hundred times, under load: after every kill what it left is judged before anything else
touches it (proof/remains.py), and by turns what the product makes of it: its window, its bookmarks, points opened.

At every kill the writers stand still for some milliseconds and the disks themselves are looked at. What they held is
what the journal must come to, what an opened point of that LSN must show, and in the end what is in the images.

Segments and intervals of undo are made small and the window short, so that kills meet their beginning and their end.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proof import journal
from proof.applied import OpenedPoints
from proof.lab import MIB, SMALL_STEPS, Disk, Lab, wait_for
from proof.oracle_a import MEMORY
from proof.position import Position
from proof.remains import Chronicle, Known, Look, Remains, digest
from proof.stamp import SequenceRule, StampWriter
from proof.storms import PATIENCE_SECONDS, SETTLE_SECONDS, Tally, why_differs
from rha.control import local
from rha.errors import RhaError

NAME = "appliance-kills"
KILLS = 200
WINDOW_SECONDS = 180.0
PROMISED_SECONDS = WINDOW_SECONDS - 30.0  # what is seen after a kill was written before it
SETTINGS = f'window = "{WINDOW_SECONDS:.0f}s"\nwindow_bytes = "64GiB"\n'
DISKS = (1, 1, 2)  # of each master
DISK_BYTES = 24 * MIB
NEAR, ALL = 3, 10_000  # intervals that the images are taken back after a kill; ALL after every `LIVE_EVERY`th
LIVE_EVERY = 5  # kills between two looks at what the product makes of it
POINTS = 3  # opened then, of each master


@dataclass
class CrashTally(Tally):
    """`looks`: at the disks, met by the journal; `undone`: intervals of undo taken back; `redone_bytes`: journal
    applied to what a kill had left; `points`, `disk_points`: opened, and those of them held against the disk."""

    looks: int = 0
    undone: int = 0
    redone_bytes: int = 0
    points: int = 0
    disk_points: int = 0
    bookmarks: int = 0


class Master:
    """One scenario: its disks, its engine, its writer, and what is known of its past."""

    def __init__(self, lab: Lab, number: int, images: Path, seed: int, stack: ExitStack) -> None:
        self._lab = lab
        self.disks: list[Disk] = [lab.disk(DISK_BYTES) for _ in range(DISKS[number % len(DISKS)])]
        self.names = [f"d{i}" for i in range(len(self.disks))]
        paths = [disk.path for disk in self.disks]
        self.engine = lab.engine(paths, name=f"crash-{os.getpid()}-{number}", ring="256MiB")
        self.engine.start()
        self.position = stack.enter_context(Position(self.engine.name))
        self.log = images / f"log-{number}"
        self.stamps = StampWriter(self.log, paths, seed=seed + number, threads=8, pause_us=40_000, longest=64)
        stack.callback(self.stamps.stop)
        self.folder = lab.appliance.store / self.engine.name
        files = [images / f"straight-{number}-{name}.raw" for name in self.names]
        sizes = tuple(disk.bytes for disk in self.disks)
        self.chronicle = Chronicle(self.folder / "journal", files, sizes, seed + number)
        self.bookmarks: dict[str, int] = {}
        self.promised: deque[tuple[float, str]] = deque()  # when a bookmark was confirmed, oldest first

    def begin(self) -> None:
        self.engine.wait_ordered(PATIENCE_SECONDS)
        wait_for(self._has_window, PATIENCE_SECONDS, self._lab.appliance.log)
        self.stamps.start()

    def _has_window(self) -> bool:
        """Points begin with the first consistent checkpoint."""
        return bool(local.call(self._lab.appliance.socket, "points", scenario=self.engine.name)["spans"])

    def look(self) -> None:
        """What the disks hold now, and how far the stream is."""
        with self.stamps.standing():
            self._look()

    def _look(self) -> None:
        content = [disk.file.read_bytes() for disk in self.disks]  # the writer's are past the cache of the device
        self.chronicle.expect(Look(self.position.now(), digest(content)))

    def bookmark(self, name: str) -> bool:
        """A name for a moment at which the disks are looked at. False: the appliance did not say yes."""
        with self.stamps.standing():
            self._look()
            end = self.position.now()
            wait_for(lambda: self._applied_lsn() >= end, PATIENCE_SECONDS, self._lab.appliance.log)
            try:
                answer = local.call(self._lab.appliance.socket, "bookmark", scenario=self.engine.name, name=name)
            except RhaError:
                return False
        self.bookmarks[name] = int(answer["lsn"])
        self.promised.append((time.monotonic(), name))
        return True

    def bookmark_fault(self, shown: dict[str, int]) -> str | None:
        """Why the bookmarks that the appliance shows (name → LSN) are not right: what has left the window may be
        missing."""
        while self.promised and time.monotonic() - self.promised[0][0] > PROMISED_SECONDS:
            self.promised.popleft()
        wrong = dict(shown.items() - self.bookmarks.items())
        missing = {name for _, name in self.promised} - shown.keys()
        return f"bookmarks wrong: {wrong}, missing: {missing}" if wrong or missing else None

    def is_consistent(self) -> bool:
        """Redo is over."""
        return bool(self._lab.appliance.report(self.engine.name)["state"] == "consistent")

    def _applied_lsn(self) -> int:
        point = self._lab.appliance.report(self.engine.name)["consistent"]
        return int(point["lsn"]) if point else 0


class Crashes:
    """The storm from its first sync to its verdict."""

    def __init__(self, kills: int, masters: int, seed: int, stack: ExitStack, say: Callable[[str], None]) -> None:
        self._kills, self._say, self._draw = kills, say, random.Random(seed)
        self.tally = CrashTally(NAME, seed)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-crash-", ignore_cleanup_errors=True)))
        self._images = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-crash-", dir=MEMORY)))
        self._lab = Lab(folder, MEMORY, stack, settings=SETTINGS)
        self._appliance = self._lab.appliance
        self._appliance.program = [sys.executable, "-c", SMALL_STEPS]
        self._appliance.start()
        self._masters = [Master(self._lab, n, self._images, seed * 100, stack) for n in range(masters)]

    def run(self) -> CrashTally:
        began = time.monotonic()
        for master in self._masters:
            master.begin()
        for number in range(self._kills):
            self._kill(number)
        self._settle()
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _kill(self, number: int) -> None:
        """Every fourth kill comes early: at the appliance's start, in its redo, while engines greet."""
        if number % 4 == 3:
            time.sleep(self._draw.random() * 1.5)
        else:
            wait_for(self._is_all_connected, PATIENCE_SECONDS, self._appliance.log)
            if number % LIVE_EVERY == 0:
                self._judge_running(number)
            time.sleep(self._draw.random() * 2.0)
        if not self._appliance.is_running:
            self._fail(number, f"the appliance ended by itself: {self._appliance.log()[-2000:]}")
        self._appliance.kill()
        self.tally.kills_appliance += 1
        for master in self._masters:
            acknowledged = master.position.acknowledged()
            master.look()
            self._judge_remains(number, master, acknowledged)
        if number % 20 == 19:
            self._say(f"{self.tally.kills_appliance} kills: {describe(self.tally)}")
        self._appliance.launch()

    def _is_all_connected(self) -> bool:
        return all(master.engine.report()["connected"] for master in self._masters)

    def _judge_remains(self, number: int, master: Master, acknowledged: int) -> None:
        with self._workplace() as work:
            remains = Remains(master.folder, master.names, master.chronicle, work)
            for why in remains.faults(acknowledged, master.bookmarks, NEAR if number % LIVE_EVERY else ALL):
                self._fail(number, f"{master.engine.name}: {why}")
        self.tally.cuts += 1
        self.tally.undone += remains.undone
        self.tally.redone_bytes += remains.redone

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        work = self._images / "work"
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work)

    def _judge_running(self, number: int) -> None:
        """By what the product shows of its past, while it goes on receiving."""
        for master in self._masters:
            name = master.engine.name
            wait_for(master.is_consistent, PATIENCE_SECONDS, self._appliance.log)
            listing = local.call(self._appliance.socket, "points", scenario=name)
            if why := listing["lost_why"] or listing["cut_why"]:
                self._fail(number, f"{name}: points are missing: {why}")
            if why := master.bookmark_fault({mark["name"]: mark["lsn"] for mark in listing["bookmarks"]}):
                self._fail(number, f"{name}: {why}")
            self._judge_points(number, master)
            if number % (2 * LIVE_EVERY) == 0:
                self.tally.bookmarks += master.bookmark(f"kill-{number}")

    def _judge_points(self, number: int, master: Master) -> None:
        """The oldest that must still be there, and some others."""
        now = time.monotonic()
        points = master.chronicle.points
        for lsn in [lsn for lsn, known in points.items() if now - known.moment > PROMISED_SECONDS]:
            del points[lsn]
        wanted = sorted(points)[:1] + self._draw.sample(sorted(points), min(len(points), POINTS - 1))
        with OpenedPoints(self._appliance.socket, master.engine.name, len(master.disks)) as opened:
            for lsn in sorted(set(wanted)):
                try:
                    opened.to(lsn)
                    found = digest([opened.content(disk) for disk in range(len(master.disks))])
                except RhaError as error:
                    self._fail(number, f"{master.engine.name}: the point at LSN {lsn} does not open: {error}")
                    continue
                self._count_point(points[lsn])
                if found != points[lsn].digest:
                    self._fail(number, f"{master.engine.name}: the point at LSN {lsn} is not what the disks were")

    def _count_point(self, known: Known) -> None:
        self.tally.points += 1
        self.tally.disk_points += known.is_disk

    def _fail(self, number: int, why: str) -> None:
        self.tally.failures.append(f"{NAME}, seed {self.tally.seed}, kill {number + 1}: {why}")
        self._say(self.tally.failures[-1])

    # The end ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Calm: in write order, verified, everything stopped; disks, images, journal and writers' rule agree."""
        for master in self._masters:
            master.stamps.stop()
            for disk in master.disks:
                disk.sync()
            master.engine.wait_ordered(SETTLE_SECONDS)
            answer = master.engine.verify()
            if not (answer["equal"] and answer["quiet"]):
                self._fail(self._kills, f"{master.engine.name}: rha verify says {answer}")
            self._appliance.wait_applied(master.engine.name, SETTLE_SECONDS)
            master.engine.stop()
        self._appliance.stop()
        for master in self._masters:
            for why in self._last(master):
                self._fail(self._kills, f"{master.engine.name}: {why}")

    def _last(self, master: Master) -> Iterator[str]:
        self._judge_remains(self._kills, master, master.position.acknowledged())
        for disk, name in zip(master.disks, master.names, strict=True):
            if why := why_differs(master.folder / f"images/{name}.qcow2", disk.file):
                yield f"disk and image: {why}"
        chronicle = master.chronicle
        yield from chronicle.faults
        if chronicle.unmet:
            yield f"the journal never came to {chronicle.unmet} looks at the disks"
        found = tuple(chronicle.kinds[kind] for kind in (journal.MARK, journal.GAP, journal.HELLO))
        if found != (1, 0, 1):
            yield "{} syncs, {} gaps, {} rings: one, none, one are right where the ring holds it all".format(*found)
        self.tally.looks += chronicle.looked
        rule = SequenceRule(master.log, chronicle.sizes)
        if broken := rule.fault(chronicle.images):
            self.tally.silent_gaps += 1
            yield broken.sentence
        self.tally.lost_bytes += rule.lost_bytes(chronicle.images)


def describe(tally: CrashTally) -> str:
    """What was compared so far."""
    return (
        f"{tally.cuts} stores judged, {tally.undone} intervals taken back, {tally.redone_bytes >> 20} MiB redone,"
        f" {tally.points} points opened ({tally.disk_points} against the disk), {tally.bookmarks} bookmarks,"
        f" {len(tally.failures)} failures"
    )


def run(kills: int, masters: int, seed: int, say: Callable[[str], None]) -> CrashTally:
    """So many kills. AssertionError when it could not even be brought to its end."""
    with ExitStack() as stack:
        return Crashes(kills, masters, seed, stack, say).run()


def told(seed: int, say: Callable[[str], None], kills: int = KILLS) -> CrashTally:
    """`run`, and a sentence about it."""
    tally = run(kills, len(DISKS), seed, say)
    say(
        f"storm {NAME}, seed {seed}: {tally.kills_appliance} kills in {tally.seconds:.0f} s; {describe(tally)};"
        f" {tally.looks} looks at disks met, {tally.lost_bytes} bytes lost, {tally.silent_gaps} silent gaps"
    )
    return tally
