"""What a killed appliance has left of a scenario, judged on the disk before the product is started again.

The journal must hold what was acknowledged. Image and journal from the checkpoint on must give what the whole journal
gives; image and undo, back to where each interval began, what the journal had given there. `Chronicle` knows that, from
following the journal, and it meets the disks themselves at every look that was taken at them.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from proof import journal, undo
from proof.journal import BadJournal, Frame
from proof.replay import Follower, RawImages

POINT_CHANCE = 0.004  # of a record to become a point that may be opened later
LOCK_SECONDS = 60.0


class Look(NamedTuple):
    """A look at the disks while nothing was being written: the end of the stream then, and what they held."""

    lsn: int
    digest: int


class Known(NamedTuple):
    """What a point must be. `moment`: CLOCK_MONOTONIC when it was seen in the journal; `is_disk`: it was seen on the
    disks themselves."""

    digest: int
    moment: float
    is_disk: bool


def digest(images: Sequence[Any]) -> int:
    """Of disks, one behind the other."""
    state = xxhash.xxh3_64()
    for image in images:
        state.update(image)
    return state.intdigest()


class Chronicle(Follower):
    """The straight replay of a journal that grows, with a memory. `points`: LSN → what the disks were; `starts`:
    journal position of an interval → the same; `lsn`: end of the last record; `looked`: looks that it came to."""

    def __init__(self, folder: Path, files: list[Path], sizes: tuple[int, ...], seed: int) -> None:
        super().__init__(folder, files, sizes)
        self.sizes, self._draw = sizes, random.Random(seed)
        self._looks: deque[Look] = deque()
        self.points: dict[int, Known] = {}
        self.starts: dict[int, int] = {}
        self.kinds: Counter[int] = Counter()
        self.lsn = self.looked = 0
        self.faults: list[str] = []

    def expect(self, look: Look) -> None:
        """The replay must come by here."""
        self._looks.append(look)

    @property
    def unmet(self) -> int:
        """Looks that the journal has not come to."""
        return len(self._looks)

    def take(self, frame: Frame) -> None:
        self.kinds[frame.type] += 1
        if frame.type != journal.RECORDS:
            super().take(frame)
            return
        for change in journal.changes(frame):
            self._meet(change.lsn)
            self.put(change.disk, change.offset, change.length, change.data)
            self.lsn = change.end_lsn
            if self._draw.random() < POINT_CHANCE:
                self.points[self.lsn] = Known(digest(self.images), time.monotonic(), is_disk=False)
        self._meet(frame.lsn + len(frame.payload))

    def _meet(self, lsn: int) -> None:
        """Everything before this LSN is written, and nothing after it."""
        while self._looks and self._looks[0].lsn <= lsn:
            look, found = self._looks.popleft(), digest(self.images)
            self.looked += 1
            self.points[self.lsn] = Known(found, time.monotonic(), is_disk=True)
            if found != look.digest:
                self.faults.append(f"the journal's replay at LSN {self.lsn} is not the disk as it was at {look.lsn}")

    def past(self, starts: Sequence[int]) -> None:
        """Goes on, with a stop where each interval begins. Raises BadJournal when none can begin there."""
        for start in starts:
            if start > self.position:
                self.to(start)
                self.starts[start] = digest(self.images)


class Remains:
    """Of one scenario, at one kill. `undone`: intervals that were taken back; `redone`: bytes of journal applied;
    `end`: position and LSN at which the sound journal ends; `straight`: raw files of what the disks are there."""

    def __init__(self, folder: Path, disks: Sequence[str], chronicle: Chronicle, work: Path) -> None:
        """`folder`: the scenario's in the store. `work`: in memory, for copies of the images; emptied by the caller."""
        self._folder, self._disks, self._chronicle, self._work = folder, disks, chronicle, work
        self.undone = self.redone = 0
        self.end = (0, 0)
        self.straight = [work / f"{disk}.straight" for disk in disks]

    def faults(self, acknowledged: int, bookmarks: dict[str, int], most_intervals: int) -> Iterator[str]:
        """What is wrong. `acknowledged`: an LSN; `bookmarks`: name → LSN, as they were confirmed; `most_intervals`: how
        far back the images are taken."""
        try:
            yield from self._journal_faults(acknowledged, most_intervals)
        except BadJournal as error:
            yield str(error)
        known = {mark["name"]: mark["lsn"] for mark in self._json("bookmarks.json", [])}
        if wrong := {name: lsn for name, lsn in bookmarks.items() if known.get(name) != lsn}:
            yield f"bookmarks {wrong} were confirmed, {known} are there"
        if (changes := self._json("changes.json", [])) and changes[-1]["why"]:
            yield f"the images are said to be no state of the master: {changes[-1]}"

    def _journal_faults(self, acknowledged: int, most_intervals: int) -> Iterator[str]:
        chronicle, saved = self._chronicle, self._json("checkpoint.json", {})
        window = undo.intervals(self._folder / "undo")
        chronicle.past([interval.start for interval in window if interval.start <= saved["position"]])
        chronicle.to(saved["position"])
        if window and window[-1].start > saved["position"]:
            yield f"undo begins at {window[-1].start}, above the checkpoint at {saved['position']}"
        tail = list(journal.sound(self._folder / "journal", saved["position"]))
        lsns = [one.lsn + len(one.payload) for one in tail if one.type == journal.RECORDS]
        self.end = (tail[-1].next_position if tail else saved["position"], max([saved["lsn"], *lsns]))
        if self.end[1] < acknowledged:
            yield f"the journal ends at LSN {self.end[1]}, {acknowledged} was acknowledged"
        images = RawImages([self._work / f"{disk}.image" for disk in self._disks], chronicle.sizes)
        yield from self._load(images)
        yield from self._taken_back(images, window[-most_intervals:])
        yield from self._redone(images, tail)

    def _load(self, images: RawImages) -> Iterator[str]:
        """The images as the kill has left them; leaked clusters are the price of a kill."""
        for disk, file in zip(self._disks, images.files, strict=True):
            image = image_of(self._folder, disk)
            _unlocked("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", image, file)
            check = subprocess.run(["qemu-img", "check", "-f", "qcow2", image], capture_output=True, text=True)
            if check.returncode not in (0, 3):
                yield f"qemu-img check says of {image.name}: {check.stdout}{check.stderr}"

    def _taken_back(self, images: RawImages, window: Sequence[undo.Interval]) -> Iterator[str]:
        copies = [bytearray(image) for image in images.images]
        for interval in reversed(window):
            undo.put_over(interval, copies)
            self.undone += 1
            if digest(copies) != self._chronicle.starts[interval.start]:
                yield f"image and undo give no state of position {interval.start}"
                return

    def _redone(self, images: RawImages, tail: Sequence[Frame]) -> Iterator[str]:
        straight = RawImages(self.straight, self._chronicle.sizes)
        for copy, image in zip(straight.images, self._chronicle.images, strict=True):
            copy[:] = image[:]
        for frame in tail:
            straight.take(frame)
            images.take(frame)
            self.redone += len(frame.payload)
        if digest(straight.images) != digest(images.images):
            yield f"image and journal from position {self._chronicle.position} on are not the journal's replay"

    def _json(self, name: str, default: Any) -> Any:
        path = self._folder / name
        return json.loads(path.read_text()) if path.exists() else default


def image_of(folder: Path, disk: str) -> Path:
    """What the applier writes to: the image, or in a sync the overlay that guards it."""
    guard = folder / "guard.json"
    is_guarded = guard.exists() and not json.loads(guard.read_text())["on_base"]
    return folder / "images" / (f"{disk}.sync.qcow2" if is_guarded else f"{disk}.qcow2")


def _unlocked(*words: object) -> None:
    """A tool of QEMU's, once the storage daemon, which dies with its appliance, has let go of the image."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if not done.returncode:
            return
        if " lock" not in done.stderr or time.monotonic() > end:
            raise BadJournal(f"{words}: {done.stderr}")
        time.sleep(0.02)
