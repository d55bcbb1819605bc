"""Syncs of a disk beside what everybody has: a first sync and one of a half-empty file system beside `nbdcopy` of the
whole disk into the same kind of image; a comparison, with nothing and with 1 % changed, beside a plain read,
`rsync --inplace --no-whole-file` and `qemu-img compare`. One run, in turn.

The disk is in memory, so reading it costs nothing but processor time; images and copies are on a disk. Two figures of
rha: `rha` is the whole time until the image is the disk; `rha reading` that of the sync by its own report, without what
it waited with everything read (docs/design.md, "The tracking window"). Nothing is written meanwhile.
"""

from __future__ import annotations

import os
import random
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import figures as f
from bench.lab import MEMORY, fill, loop_device
from bench.process import family_cpu_seconds
from proof.lab import Engine, Lab, run, wait_for
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon

ROUNDS = 3
DISK_BYTES = 2 << 30
SYNC_SECONDS = 300
BLOCK_BYTES = 64 << 10
CHANGED = DISK_BYTES // BLOCK_BYTES // 100  # 1 % of the disk, in blocks at random places
_LITERAL = re.compile(r"Literal data: ([\d,]+)")
_SENT = re.compile(r"Total bytes sent: ([\d,]+)")

Row = dict[str, object]


class Cost(NamedTuple):
    """Wall and processor seconds, those of reading and comparing alone, and bytes over the line: `content` of the disk,
    `sent` with digests and all."""

    seconds: float
    cpu: float
    reading: float = 0.0
    content: int = 0
    sent: int = 0


Costs = dict[str, list[Cost]]


def measure() -> list[Row]:
    """[median, least, most] of each figure."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        device = stack.enter_context(loop_device(DISK_BYTES))
        fill(device, DISK_BYTES)
        rows = _first_and_again(device, folder)
        return [*rows, _half_empty(device, folder)]


def _first_and_again(device: str, folder: Path) -> list[Row]:
    first: Costs = {"rha": [], "nbdcopy": []}
    same: Costs = {"rha": [], "read": [], "rsync": [], "qemu-img compare": []}
    changed: Costs = {"rha": [], "rsync": []}
    copy = folder / "copy"
    run("cp", device, copy)
    for number in range(ROUNDS):
        with _protected(device, folder / str(number), "block") as (lab, engine):
            first["rha"].append(_sync(lab, engine))
            engine.unload()
            same["rha"].append(_sync(lab, engine))
            same["read"].append(_tool("dd", f"if={device}", "of=/dev/null", "bs=1M", "iflag=direct")[0])
            same["rsync"].append(_rsync(device, copy))
            engine.unload()
            _change(device)
            changed["rha"].append(_sync(lab, engine))
            changed["rsync"].append(_rsync(device, copy))
            lab.appliance.stop()
            same["qemu-img compare"].append(_qemu_compare(device, lab.appliance.image(engine.name, "d0")))
        first["nbdcopy"].append(_nbdcopy(device, _made(folder / f"nbdcopy-{number}")))
    return [
        _row("first sync", first),
        _row("compare, nothing changed", same),
        _row("compare, 1 % changed", changed) | _bytes_row(changed),
    ]


def _half_empty(device: str, folder: Path) -> Row:
    """The free half holds what was once there, so nobody can skip it as zeros."""
    costs: Costs = {"rha": [], "nbdcopy": []}
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", device)
    point = _made(folder / "mounted")
    run("mount", device, point)
    try:
        (point / "half").write_bytes(b"")
        fill(str(point / "half"), DISK_BYTES // 2)
        for number in range(ROUNDS):
            with _protected(device, folder / f"half-{number}", "volume") as (lab, engine):
                costs["rha"].append(_sync(lab, engine))
                lab.appliance.stop()
            costs["nbdcopy"].append(_nbdcopy(device, _made(folder / f"half-nbdcopy-{number}")))
    finally:
        run("umount", point)
    return _row("first sync, ext4 half empty", costs)


# Figures ------------------------------------------------------------------------------------------------------


def _row(name: str, costs: Costs) -> Row:
    """`speed_of_X`: rha's speed divided by X's; `reading_speed_of_X`: without what it waited; `cpu_of_X`: rha's
    processor time, both sides, divided by X's."""
    mine, others = costs["rha"], [who for who in costs if who != "rha"]
    seconds = {who: f.spread([one.seconds for one in found]) for who, found in costs.items()}
    return {
        "name": f"{name}, {DISK_BYTES >> 30} GiB",
        "load": f.load(),
        "seconds": seconds | {"rha reading": f.spread([one.reading for one in mine])},
        "cpu_seconds": {who: f.spread([one.cpu for one in found]) for who, found in costs.items()},
        **{f"speed_of_{who}": f.ratios([o.seconds for o in costs[who]], [m.seconds for m in mine]) for who in others},
        **{
            f"reading_speed_of_{who}": f.ratios([o.seconds for o in costs[who]], [m.reading for m in mine])
            for who in others
        },
        **{f"cpu_of_{who}": f.ratios([m.cpu for m in mine], [o.cpu for o in costs[who]]) for who in others},
    }


def _bytes_row(costs: Costs) -> Row:
    return {
        "changed_MiB": round(CHANGED * BLOCK_BYTES / (1 << 20), 1),
        "content_MiB": {who: _mebibytes([one.content for one in found]) for who, found in costs.items()},
        "sent_MiB": {who: _mebibytes([one.sent for one in found]) for who, found in costs.items()},
    }


def _mebibytes(counts: list[int]) -> list[float]:
    return f.spread([count / (1 << 20) for count in counts])


# rha ----------------------------------------------------------------------------------------------------------


@contextmanager
def _protected(device: str, folder: Path, method: str) -> Iterator[tuple[Lab, Engine]]:
    """An appliance that runs, and an engine that does not yet."""
    with ExitStack() as stack:
        lab = Lab(_made(folder), MEMORY, stack)
        lab.appliance.start()
        yield lab, lab.engine([device], name=f"bench-{os.getpid()}-{folder.name}", sync=method)


def _sync(lab: Lab, engine: Engine) -> Cost:
    """From the begin of the sync until the image is the disk. The probe is loaded before that."""
    engine.start()
    begin, before = time.monotonic(), _cpu(lab, engine)
    wait_for(lambda: engine.report()["state"] != "silent", 60)
    engine.wait_ordered(SYNC_SECONDS)
    lab.appliance.wait_applied(engine.name, SYNC_SECONDS)
    taken = time.monotonic() - begin
    spent, report = _cpu(lab, engine) - before, engine.report()
    done = report["disks"][0]["last_sync"]
    reading = done["seconds"] - done["waited_seconds"]
    return Cost(taken, spent, reading, done["sent_bytes"], report["link"]["sent_bytes"])


def _cpu(lab: Lab, engine: Engine) -> float:
    """Processor seconds of both sides so far, storage daemon included."""
    assert lab.appliance.process
    assert engine.process
    return family_cpu_seconds(lab.appliance.process.pid) + family_cpu_seconds(engine.process.pid)


# Others -------------------------------------------------------------------------------------------------------


def _change(device: str) -> None:
    """1 % of the blocks, at random places; on the disk when this returns."""
    with open(device, "r+b", buffering=0) as disk:
        for block in random.sample(range(DISK_BYTES // BLOCK_BYTES), CHANGED):
            disk.seek(block * BLOCK_BYTES)
            disk.write(os.urandom(BLOCK_BYTES))
        os.fsync(disk.fileno())


def _nbdcopy(device: str, folder: Path) -> Cost:
    """Into a new image of the same format, served by the same storage daemon with the same settings, flushed."""
    image, before = folder / "disk.qcow2", _children_cpu()
    formats.create(image, DISK_BYTES)
    with StorageDaemon([ImageSpec("disk", image, "qcow2")], folder / "run") as daemon:
        copied, _ = _tool("nbdcopy", "--flush", device, f"nbd+unix:///disk?socket={daemon.socket}")
    image.unlink()
    return copied._replace(cpu=_children_cpu() - before)


def _rsync(device: str, copy: Path) -> Cost:
    """The usual way to bring a large file up to date; `-I`, or it would look at times only."""
    source = run("losetup", "--noheadings", "--output", "BACK-FILE", device)
    cost, said = _tool("rsync", "--inplace", "--no-whole-file", "-I", "--stats", source, copy)
    return cost._replace(content=_count(_LITERAL, said), sent=_count(_SENT, said))


def _count(pattern: re.Pattern[str], said: str) -> int:
    found = pattern.search(said)
    assert found, said
    return int(found[1].replace(",", ""))


def _qemu_compare(device: str, image: Path) -> Cost:
    """Of equal disks, since it ends at the first difference. So it also proves that they are equal."""
    return _tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", device, image)[0]


def _tool(*words: object) -> tuple[Cost, str]:
    """What a command cost, and what it said."""
    begin, before = time.monotonic(), _children_cpu()
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    return Cost(time.monotonic() - begin, _children_cpu() - before), done.stdout


def _children_cpu() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
