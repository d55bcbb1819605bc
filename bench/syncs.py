"""First sync beside `nbdcopy` of the same disk into the same kind of image; comparing an unchanged disk beside a plain
read of it and `rsync --inplace --no-whole-file`. Seconds for the whole disk, one run, in turn."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import figures as f
from bench.lab import MEMORY, fill, loop_device
from bench.process import cpu_seconds
from proof.lab import Engine, Lab, run, wait_for
from rha.image import formats
from rha.image.storage_daemon import ImageSpec, StorageDaemon

ROUNDS = 3
DISK_BYTES = 2 << 30
SYNC_SECONDS = 300

Row = dict[str, object]


def measure() -> list[Row]:
    """Two rows: [median, least, most] of seconds, and the speed of rha as a share of the others'."""
    first: dict[str, list[float]] = {"rha": [], "nbdcopy": []}
    again: dict[str, list[float]] = {"rha": [], "read": [], "rsync": []}
    cpu: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        device = stack.enter_context(loop_device(DISK_BYTES))
        fill(device, DISK_BYTES)
        copy = folder / "copy"
        run("cp", device, copy)
        for number in range(ROUNDS):
            with ExitStack() as inner:
                lab = Lab(_made(folder / str(number)), MEMORY, inner)
                lab.appliance.start()
                engine = lab.engine([device], name=f"bench-{os.getpid()}-{number}")
                first["rha"].append(_sync_seconds(lab, engine, cpu))
                engine.unload()
                again["rha"].append(_sync_seconds(lab, engine, []))
                lab.appliance.stop()
            first["nbdcopy"].append(_nbdcopy_seconds(device, _made(folder / f"nbdcopy-{number}")))
            again["read"].append(_seconds("dd", f"if={device}", "of=/dev/null", "bs=1M", "iflag=direct"))
            again["rsync"].append(_rsync_seconds(device, copy))
    return [_row("first sync", first) | {"engine_cpu_seconds": f.spread(cpu)}, _row("compare, nothing changed", again)]


def _row(name: str, seconds: dict[str, list[float]]) -> Row:
    """`speed_of_X`: rha's speed divided by X's."""
    others = [other for other in seconds if other != "rha"]
    return {
        "name": f"{name}, {DISK_BYTES >> 30} GiB",
        "load": f.load(),
        "seconds": {who: f.spread(found) for who, found in seconds.items()},
        **{f"speed_of_{other}": f.ratios(seconds[other], seconds["rha"]) for other in others},
    }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _sync_seconds(lab: Lab, engine: Engine, cpu: list[float]) -> float:
    """From the begin of the sync until the image is the disk. The probe is loaded before that."""
    engine.start()
    begin = time.monotonic()
    wait_for(lambda: engine.report()["state"] != "silent", 60)
    engine.wait_ordered(SYNC_SECONDS)
    lab.appliance.wait_applied(engine.name, SYNC_SECONDS)
    taken = time.monotonic() - begin
    assert engine.process is not None
    cpu.append(cpu_seconds(engine.process.pid))
    return taken


def _nbdcopy_seconds(device: str, folder: Path) -> float:
    """Into a new image of the same format, served by the same storage daemon with the same settings, flushed."""
    image = folder / "disk.qcow2"
    formats.create(image, DISK_BYTES)
    with StorageDaemon([ImageSpec("disk", image, "qcow2")], folder / "run") as daemon:
        return _seconds("nbdcopy", "--flush", device, f"nbd+unix:///disk?socket={daemon.socket}")


def _rsync_seconds(device: str, copy: Path) -> float:
    """The usual way to bring a large file up to date; `-I`, or it would look at times only."""
    source = run("losetup", "--noheadings", "--output", "BACK-FILE", device)
    return _seconds("rsync", "--inplace", "--no-whole-file", "-I", source, copy)


def _seconds(*words: object) -> float:
    begin = time.monotonic()
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    return time.monotonic() - begin
