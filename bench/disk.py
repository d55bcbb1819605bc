"""What capturing costs the writers of a disk: fio without and with the probe, in turn, in one run."""

from __future__ import annotations

import json
import subprocess
from statistics import median

from bench.lab import capture, drained, loop_device

PAIRS = 3
SECONDS = 3
JOBS = {
    "randwrite 4 KiB, queue 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "randwrite 4 KiB, queue 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "randwrite 64 KiB, queue 4": ["--rw=randwrite", "--bs=64k", "--iodepth=4"],
    "write 1 MiB, queue 4": ["--rw=write", "--bs=1m", "--iodepth=4"],
}


def measure() -> list[dict[str, object]]:
    """One row per job: medians of IOPS and p99 without and with capture, and the ratios pair by pair."""
    with loop_device(512 << 20) as device, capture(device, 1 << 30) as running:
        rows = []
        for name, words in JOBS.items():
            plain, captured = [], []
            for _ in range(PAIRS):
                running.state["disk"][0]["mode"] = 0
                plain.append(_fio(device, words))
                running.enter_data_mode(0)
                with drained(running):
                    captured.append(_fio(device, words))
            rows.append(_row(name, plain, captured) | {"lost": running.losses(0)})
    return rows


def _row(name: str, plain: list[tuple[float, float]], captured: list[tuple[float, float]]) -> dict[str, object]:
    iops = [with_[0] / without[0] for without, with_ in zip(plain, captured, strict=True)]
    p99 = [with_[1] / without[1] for without, with_ in zip(plain, captured, strict=True)]
    return {
        "name": name,
        "iops_plain": round(median(one[0] for one in plain)),
        "iops_captured": round(median(one[0] for one in captured)),
        "iops_ratio": round(median(iops), 2),
        "iops_ratio_range": [round(min(iops), 2), round(max(iops), 2)],
        "p99_ratio": round(median(p99), 2),
        "p99_ratio_range": [round(min(p99), 2), round(max(p99), 2)],
    }


def _fio(device: str, words: list[str]) -> tuple[float, float]:
    """IOPS and the 99th percentile of the completion latency in microseconds."""
    fixed = ["--name=bench", f"--filename={device}", "--direct=1", "--ioengine=io_uring", f"--runtime={SECONDS}"]
    done = subprocess.run(
        ["fio", *fixed, "--time_based", "--output-format=json", *words], check=True, capture_output=True, text=True
    )
    write = json.loads(done.stdout)["jobs"][0]["write"]
    return write["iops"], write["clat_ns"]["percentile"]["99.000000"] / 1000
