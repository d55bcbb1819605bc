"""What rha costs the writers of a disk: fio without, captured only, captured and shipped, in turn, in one run.
Once on a disk in memory, where nothing hides the price, and once on a file of this machine's own disk, past the page
cache."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import figures as f
from bench.lab import MEMORY, loop_device
from bench.ways import CAPTURED, NAMES, SHIPPED, WITHOUT, Ways, acknowledging_lab, first_sync
from proof.lab import Lab

ROUNDS = 7
SECONDS = 1.5
DISK_BYTES = 512 << 20
RING = "1GiB"
PLACES = {"in memory": MEMORY, "on disk": Path("/var/tmp")}
JOBS = {
    "randwrite 4 KiB, queue 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "randwrite 4 KiB, queue 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "randwrite 64 KiB, queue 4": ["--rw=randwrite", "--bs=64k", "--iodepth=4"],
    "write 1 MiB, queue 4": ["--rw=write", "--bs=1m", "--iodepth=4"],
}

Row = dict[str, object]


class Run(NamedTuple):
    """One fio run. Latencies in microseconds, from before the submission on: the probe runs in it."""

    iops: float
    mean: float
    p99: float


def measure() -> list[Row]:
    """One row per disk and job: medians without rha, and the ratios of both ways pair by pair."""
    with acknowledging_lab() as lab:
        return [row for kind, folder in PLACES.items() for row in _rows(kind, folder, lab)]


def _rows(kind: str, folder: Path, lab: Lab) -> list[Row]:
    with loop_device(DISK_BYTES, folder) as device:
        engine = lab.engine([device], name=f"bench-{os.getpid()}-{kind.split()[-1]}", ring=RING)
        first_sync(engine)
        ways = Ways(device, engine)
        return [_row(f"{kind}, {name}", words, device, ways) for name, words in JOBS.items()]


def _row(name: str, words: list[str], device: str, ways: Ways) -> Row:
    runs: dict[str, list[Run]] = {way: [] for way in NAMES}
    cpu, losses = [], dict(ways.lost)
    for _ in range(ROUNDS):
        for way in NAMES:
            with ways.go(way):
                runs[way].append(_fio(device, words))
        cpu.append(ways.engine_cpu / (ways.shipped_bytes / 1e9))
    without = runs[WITHOUT]
    return {
        "name": name,
        "load": f.load(),
        "iops": round(median(run.iops for run in without)),
        "mean_us": round(median(run.mean for run in without), 1),
        "p99_us": round(median(run.p99 for run in without), 1),
        **{way: f.against(runs[way], without) for way in (CAPTURED, SHIPPED)},
        "engine_cpu_seconds_per_GB": f.spread(cpu),
        "lost": {reason: count - losses.get(reason, 0) for reason, count in ways.lost.items()},
    }


def _fio(device: str, words: list[str]) -> Run:
    fixed = ["--name=bench", f"--filename={device}", "--direct=1", "--ioengine=io_uring", f"--runtime={SECONDS}"]
    fixed += ["--time_based", "--lat_percentiles=1", "--output-format=json"]
    done = subprocess.run(["fio", *fixed, *words], check=True, capture_output=True, text=True)
    write = json.loads(done.stdout)["jobs"][0]["write"]
    latency = write["lat_ns"]
    return Run(write["iops"], latency["mean"] / 1000, latency["percentile"]["99.000000"] / 1000)
