"""Oracle B: the kernel's own record of the writes, dm-log-writes, against the stream and the image of rha.

    file system → dm-log-writes ──→ data disk     (watched by rha)
                        └─────────→ log disk

rha watches the disk below the log: there every bio arrives that the log has seen, as the same sectors, on a plain
request-based disk. Watching the dm-log-writes device itself was rejected: then a write that the target completes by
itself (a discard that the data disk does not take) would be in the stream and not on the disk. At a mark the file
systems are frozen and the device is flushed, so that the log holds everything; the LSN of that moment is what the
appliance then shows as its consistent point. Compared are three images: the log's replay to the mark, the straight
replay of the journal to the LSN (proof/replay.py), and the appliance's own applier stopped there (proof/applied.py).
Besides, at every write with FUA in the stream the file system must be sound after its journal's replay.

`python -m vmlab log-writes` prints the figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from demo import product
from proof import filesystems, journal, replay
from proof.applied import AppliedImages
from rha.errors import StateError
from vmlab import disk, layers
from vmlab.machine import Machine
from vmlab.site import Master, Site
from vmlab.write_log import Replayed

MIB = 1 << 20
KINDS = ("ext4", "xfs")
DATA_BYTES = 72 * MIB
LOG_BYTES = 4096 * MIB  # sparse
MARKS = 12
RING = "128MiB"  # a gap would put a sync between two marks
WORK_SECONDS = 3  # of load between two marks
SCENARIO = "log-writes"
FUA_FLAG = 1  # RHA_FLAG_FUA of csrc/record.h

Say = Callable[[str], None]


@dataclass
class Verdict:
    """`marks`: images compared at marks; `fua_points`: file systems checked; `failures`: a sentence each."""

    marks: int = 0
    log_writes: int = 0
    fua_points: int = 0
    records: int = 0
    failures: list[str] = field(default_factory=list)

    def table(self) -> dict[str, str]:
        """Name → figure, as it is printed; every failure has a line of its own."""
        figures = {
            "marks compared": str(self.marks),
            "writes in the log": str(self.log_writes),
            "records in the stream": str(self.records),
            "FUA points checked": str(self.fua_points),
        }
        return figures | {f"failure {i + 1}": failure for i, failure in enumerate(self.failures)}


@dataclass(frozen=True)
class Mark:
    """A quiet moment: the name in the log, the LSN of the stream."""

    name: str
    lsn: int


def run(say: Say = print) -> Verdict:
    """The whole oracle: a load in a machine, then the comparison here. Five to ten minutes under TCG.

    Raises RhaError when the machine or the appliance does not do its part.
    """
    with tempfile.TemporaryDirectory(prefix="rha-vm-", dir="/var/tmp") as name:
        folder = Path(name)
        data = [disk.make(folder, f"data-{kind}", DATA_BYTES, "virtio") for kind in KINDS]
        logs = [disk.make(folder, f"log-{kind}", LOG_BYTES, "virtio") for kind in KINDS]
        with Site(folder) as site:
            with Machine("logged", folder, disks=[*data, *logs], memory_mib=1280, cpus=2) as machine:
                say(f"booted in {machine.start():.0f} s")
                marks = _Recorder(site, machine, data, logs, say).record()
            site.stop()
            return _judge(site, folder, marks, [one.file for one in logs], say)


class _Recorder:
    """The machine's part."""

    def __init__(
        self, site: Site, machine: Machine, data: Sequence[disk.Disk], logs: Sequence[disk.Disk], say: Say
    ) -> None:
        self._site, self._machine, self._data, self._logs, self._say = site, machine, data, logs, say

    def record(self) -> list[Mark]:
        """Makes the file systems, loads them, protects them under the load, and marks. The machine is then cut off."""
        for kind, data, log in zip(KINDS, self._data, self._logs, strict=True):
            table = f"0 $(blockdev --getsz {data.path}) log-writes {data.path} {log.path}"
            self._machine.sh(f'modprobe dm-log-writes; dmsetup create lw-{kind} --table "{table}"')
            self._machine.sh(f"{layers.MKFS[kind]} /dev/mapper/lw-{kind}; mkdir -p /mnt/lab/{kind}")
            self._machine.run("mount", "-o", "discard", f"/dev/mapper/lw-{kind}", f"/mnt/lab/{kind}")
        self._load()
        self._site.start()
        master = self._site.protect(self._machine, SCENARIO, {one.name: one.path for one in self._data}, RING)
        master.start()
        master.wait_ordered()
        self._say("in write order, under load")
        marks = []
        for number in range(MARKS):
            self._machine.run("sleep", WORK_SECONDS)
            marks.append(self._mark(master, number))
        report = master.report()
        self._say(
            f"{len(marks)} marks, {report['records']} records, losses {[one['losses'] for one in report['disks']]}"
        )
        return marks

    def _load(self) -> None:
        """Random writes with fsync, and files that come and go."""
        jobs = "".join(f"[{kind}]\ndirectory=/mnt/lab/{kind}\n" for kind in KINDS)
        self._machine.put(
            "/root/load.fio",
            "[global]\nioengine=psync\nthread\nrw=randwrite\nbsrange=4k-64k\nsize=8m\ntime_based\nruntime=3600\n"
            f"rate_iops=12\nfsync=6\nrandrepeat=0\nrefill_buffers\n{jobs}",
        )
        churn = (
            "while :; do for d in /mnt/lab/*; do rm -rf $d/tree; cp -r /etc/systemd $d/tree; sync -f $d; sleep 0.3;"
            " done; done"
        )
        self._machine.run("systemd-run", "--quiet", "--unit=lab-fio", "fio", "--output=/root/fio.log", "/root/load.fio")
        self._machine.run("systemd-run", "--quiet", "--unit=lab-churn", "bash", "-c", churn)

    def _mark(self, master: Master, number: int) -> Mark:
        name = f"m{number}"
        for kind in KINDS:
            self._machine.sh(f"fsfreeze -f /mnt/lab/{kind}; sync /dev/mapper/lw-{kind}")
        try:
            for kind in KINDS:
                self._machine.run("dmsetup", "message", f"lw-{kind}", "0", "mark", name)
            master.wait_ordered()
            self._site.wait_applied(master.name)
            return Mark(name, _consistent_lsn(self._site, master.name))
        finally:
            for kind in KINDS:
                self._machine.run("fsfreeze", "-u", f"/mnt/lab/{kind}")


def _consistent_lsn(site: Site, scenario: str) -> int:
    for report in product.reports(site.run_dir / "appliance.sock"):
        if report.scenario == scenario and report.consistent:
            return report.consistent.lsn
    raise StateError(f"{scenario} has no consistent point", cause="the appliance's report shows none")


def _judge(site: Site, folder: Path, marks: Sequence[Mark], logs: Sequence[Path], say: Say) -> Verdict:
    """The comparison: everything lies still now."""
    verdict = Verdict()
    found = replay.scan(site.journal(SCENARIO))
    sizes = found.sizes
    with tempfile.TemporaryDirectory(prefix="rha-oracle-b-", dir="/dev/shm") as name, ExitStack() as stack:
        place = Path(name)
        straight = replay.Replay(found.folder, [place / f"journal-{i}.raw" for i in range(len(sizes))], sizes)
        logged = [Replayed(log, place / f"log-{i}.raw", sizes[i]) for i, log in enumerate(logs)]
        for one in logged:
            stack.callback(one.close)
        (place / "applied").mkdir()
        applied = stack.enter_context(AppliedImages(place / "applied", found.folder, sizes))
        fua = _fua_points(found.folder, marks[0].lsn)
        for mark in marks:
            cut = max(one for one in found.cuts if one <= mark.lsn)
            if cut != mark.lsn:
                verdict.failures.append(f"{mark.name}: no record in write order ends at LSN {mark.lsn}, one at {cut}")
            _check_file_systems(verdict, straight, (point for point in fua if point[0] <= cut), place)
            fua = [point for point in fua if point[0] > cut]
            straight.to(cut)
            applied.to(cut)
            _compare(verdict, mark, logged, straight, applied)
            figures = f"{verdict.fua_points} FUA points so far, {len(verdict.failures)} failures"
            say(f"    {mark.name}: LSN {mark.lsn}, {figures}")
        verdict.log_writes = sum(one.writes for one in logged)
        verdict.records = len(found.cuts)
    return verdict


def _compare(
    verdict: Verdict, mark: Mark, logged: Sequence[Replayed], straight: replay.Replay, applied: AppliedImages
) -> None:
    for i, one in enumerate(logged):
        one.to_mark(mark.name)
        at = _first_difference(one.image, straight.files[i])
        if at is not None:
            verdict.failures.append(f"{mark.name}: the journal's replay of disk {i} is not the log's, first at {at}")
    places = [f"disk {i} at {at}" for i, at in applied.differences([one.image for one in logged])]
    if places:
        verdict.failures.append(f"{mark.name}: the appliance's images are not the log's replay: {places[:3]}")
    verdict.marks += 1


def _first_difference(one: Path, other: Path) -> int | None:
    """Byte offset, or None when the files are equal."""
    step = MIB
    with one.open("rb") as left, other.open("rb") as right:
        at = 0
        while a := left.read(step):
            b = right.read(step)
            if a != b:
                return at + next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            at += step
        return at if right.read(1) else None


def _fua_points(folder: Path, after: int) -> list[tuple[int, int]]:
    """(LSN behind the record, disk) of every write with FUA in the stream above an LSN."""
    return [
        (change.end_lsn, change.disk)
        for frame in journal.frames(folder)
        if frame.type == journal.RECORDS
        for change in journal.changes(frame)
        if change.flags & FUA_FLAG and change.end_lsn > after
    ]


def _check_file_systems(
    verdict: Verdict, straight: replay.Replay, points: Iterator[tuple[int, int]], place: Path
) -> None:
    for lsn, number in points:
        straight.to(lsn)
        kind = KINDS[number]
        why = filesystems.fault(kind, straight.files[number], place, lambda point: None)
        verdict.fua_points += 1
        if why:
            verdict.failures.append(f"{kind} at LSN {lsn}: {why}")
