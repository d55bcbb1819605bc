"""Oracle A: at random LSNs the appliance's image is the straight replay of the stream, and a state of the master.

Each subject is a load on watched disks. It is recorded through the real daemons; then the recording is walked, cut by
cut, by the product's applier and by proof/replay.py side by side.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from proof import filesystems, journal, replay
from proof.applied import AppliedImages, OpenedPoints
from proof.lab import MIB, Engine, Lab, run, wait_for
from proof.position import Ledger, Position, Records
from proof.replay import Recording, Replay
from proof.stamp import SequenceRule, StampWriter
from proof.writers import FileWriter

MEMORY = Path("/dev/shm")
KEEP_ALL = 'window = "30d"\nwindow_bytes = "1TiB"\n'

Judge = Callable[[int, Replay], str | None]  # (cut LSN, its images) → the reason why they are no state of the master


@dataclass
class Verdict:
    """What a subject's cuts showed. `failures`: sentences; `lost_bytes`: of completed writes, at the end."""

    subject: str
    cuts: int = 0
    failures: list[str] = field(default_factory=list)
    lost_bytes: int = 0
    writes: int = 0
    seconds: float = 0.0


@contextmanager
def setting() -> Iterator[tuple[Lab, Path]]:
    """A lab whose appliance keeps its whole journal, and a folder in memory for images."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-proof-")))
        images = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-proof-", dir=MEMORY)))
        yield Lab(folder, MEMORY, stack, settings=KEEP_ALL), images


def raw(sizes: Sequence[int], seconds: float, cuts: int, seed: int) -> Verdict:
    """Stamps on whole disks, several writers in flight; with more than one disk, the order across all of them."""
    verdict = Verdict(f"raw, {len(sizes)} disks" if len(sizes) > 1 else "raw")
    with setting() as (lab, images):
        disks = [lab.disk(size) for size in sizes]
        engine = ordered(lab, [disk.path for disk in disks])
        log = images / "log"
        with StampWriter(log, [disk.path for disk in disks], seed=seed, pause_us=20_000):
            time.sleep(seconds)
        assert engine.losses() == {}, engine.losses()
        lab.assert_equal(engine, disks)
        rule = SequenceRule(log, sizes)
        verdict.writes = rule.writes

        def judge(cut: int, at: Replay) -> str | None:
            broken = rule.fault(at.images)
            return broken.sentence if broken else None

        end = walk(verdict, recording(lab, engine), cuts, seed, images, judge)
        verdict.lost_bytes = rule.lost_bytes(end.images)
        verdict.failures += differing_end(end, [disk.file for disk in disks])
    return verdict


def points(sizes: Sequence[int], seconds: float, cuts: int, seed: int) -> Verdict:
    """Points of a running appliance, opened by LSN while the writers go on: each is the straight replay."""
    verdict = Verdict("opened points")
    with setting() as (lab, images):
        disks = [lab.disk(size) for size in sizes]
        engine = ordered(lab, [disk.path for disk in disks])
        log = images / "log"
        with StampWriter(log, [disk.path for disk in disks], seed=seed, pause_us=50_000) as writer:
            time.sleep(seconds)
            folder = lab.appliance.store / engine.name / "journal"
            found = replay.scan(folder, journal.durable(folder))
            with OpenedPoints(lab.appliance.socket, engine.name, len(disks)) as opened:
                oldest = opened.oldest()
                window = tuple(cut for cut in found.cuts if cut >= oldest)
                wanted = chosen(found._replace(cuts=window), cuts, seed)
                compared(verdict, found, wanted, images, opened, lambda cut, at: None)
            verdict.writes = writer.count()
        lab.assert_equal(engine, disks)
    return verdict


def file_system(kind: str, seconds: float, cuts: int, seed: int) -> Verdict:
    """A mounted file system under files, fio and fsynced records; each cut is mounted, looked at and checked."""
    verdict = Verdict(kind)
    with setting() as (lab, images), ExitStack() as stack:
        disk = lab.disk(filesystems.KINDS[kind].bytes)
        run(*filesystems.KINDS[kind].mkfs, disk.path)
        with filesystems.mounted(disk.path, images / "master", filesystems.KINDS[kind].mount) as point:
            engine = ordered(lab, [disk.path])
            ledger = Ledger(stack.enter_context(Position(engine.name)))
            with Records(point / "records", ledger, pause=0.02), FileWriter(point, pause=0.02, seed=seed):
                fio(point, seconds, seed)
        assert engine.losses() == {}, engine.losses()
        lab.assert_equal(engine, [disk])
        verdict.writes = len(ledger.entries)

        def judge(cut: int, at: Replay) -> str | None:
            image = images / "replay-0.raw"
            return filesystems.fault(kind, image, images, lambda point: missing_records(point, ledger.promised(cut)))

        end = walk(verdict, recording(lab, engine), cuts, seed, images, judge)
        verdict.failures += differing_end(end, [disk.file])
    return verdict


def missing_records(point: Path, promised: set[int]) -> str | None:
    """Fsynced lines that a mounted image lacks, or lines out of order."""
    file = point / "records"
    found = [int(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []
    if found[: len(promised)] != sorted(promised):
        return f"{len(promised)} records were durable before the cut, {len(found)} are there: {found[-3:]}"
    return None if found == list(range(len(found))) else "records are out of order"


def fio(folder: Path, seconds: float, seed: int) -> None:
    """Random writes into one file, 4 to 64 KiB, some with fsync, at a rate that a journal of minutes can hold."""
    words = ["--name=proof", f"--directory={folder}", "--rw=randwrite", "--bsrange=4k-64k", "--size=12m"]
    words += ["--fsync=16", "--rate=2m", "--time_based", f"--runtime={seconds}", f"--randseed={seed}"]
    subprocess.run(["fio", *words], check=True, capture_output=True)


def ordered(lab: Lab, devices: list[str]) -> Engine:
    """Appliance and engine, in write order."""
    lab.appliance.start()
    engine = lab.engine(devices, ring="256MiB")
    engine.start()
    wait_for(lambda: engine.state() == "write-order", 60, engine.report)
    return engine


def recording(lab: Lab, engine: Engine) -> Recording:
    """What the appliance has journalled; it must not run any more."""
    return replay.scan(lab.appliance.store / engine.name / "journal")


def walk(verdict: Verdict, found: Recording, cuts: int, seed: int, folder: Path, judge: Judge) -> Replay:
    """Compares and judges the applier's images at random cuts of the recording. Returns the replay of all of it."""
    place = Path(tempfile.mkdtemp(dir=folder))
    with AppliedImages(place, found.folder, found.sizes) as images:
        straight = compared(verdict, found, chosen(found, cuts, seed), folder, images, judge)
    straight.to_end()
    return straight


def chosen(found: Recording, cuts: int, seed: int) -> list[int]:
    """So many random cuts, ascending; all when there are fewer."""
    return sorted(random.Random(seed).sample(found.cuts, min(cuts, len(found.cuts))))


class Images(Protocol):
    """Images of the product that can be looked at as they were at a cut."""

    def to(self, cut: int) -> None: ...

    def differences(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]: ...


def compared(
    verdict: Verdict, found: Recording, cuts: Sequence[int], folder: Path, images: Images, judge: Judge
) -> Replay:
    """Compares and judges images at ascending cuts. Returns the replay, which stands at the last one."""
    began = time.monotonic()
    straight = Replay(found.folder, [folder / f"replay-{i}.raw" for i in range(len(found.sizes))], found.sizes)
    for cut in cuts:
        straight.to(cut)
        images.to(cut)
        places = [f"disk {disk} at {offset}" for disk, offset in images.differences(straight.files)]
        wrong = f"the image is not the replay: {places[:3]}" if places else judge(cut, straight)
        verdict.cuts += 1
        if wrong:
            verdict.failures.append(f"{verdict.subject}, LSN {cut}: {wrong}")
    verdict.seconds = time.monotonic() - began
    return straight


def differing_end(end: Replay, files: list[Path]) -> list[str]:
    """The whole replay must be the master's disks as they are."""
    return [
        f"at the end the replay of disk {i} is not the disk"
        for i, (image, file) in enumerate(zip(end.images, files, strict=True))
        if image[:] != file.read_bytes()
    ]


class Subject(NamedTuple):
    """A load, and how many cuts it gets; `act(cuts)` records and judges it."""

    name: str
    cuts: int
    act: Callable[[int], Verdict]

    def judge(self, say: Callable[[str], None]) -> Verdict:
        """Raises whatever kept it from its end."""
        found = self.act(self.cuts)
        counts = f"{found.cuts} cuts, {found.writes} writes, {len(found.failures)} failures"
        say(f"{self.name}: {counts} in {found.seconds:.0f} s")
        return found


def subjects(cuts: int, seed: int) -> list[Subject]:
    """All of them, sharing about so many cuts."""
    parts: list[tuple[str, float, Callable[[int], Verdict]]] = [
        ("raw", 0.4, lambda n: raw([48 * MIB], 10, n, seed)),
        ("raw, 2 disks", 0.17, lambda n: raw([24 * MIB, 24 * MIB], 8, n, seed + 1)),
        ("opened points", 0.05, lambda n: points([24 * MIB, 24 * MIB], 8, n, seed + 5)),
        ("ext4", 0.2, lambda n: file_system("ext4", 12, n, seed + 2)),
        ("xfs", 0.09, lambda n: file_system("xfs", 12, n, seed + 3)),
        ("btrfs", 0.09, lambda n: file_system("btrfs", 12, n, seed + 4)),
    ]
    return [Subject(name, -(-int(cuts * share * 100) // 100), act) for name, share, act in parts]
