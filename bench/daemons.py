"""The engine itself: memory besides its ring, processor time idle and during a first sync, what a disk's bitmap takes;
and how long `rha status` takes to answer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench import figures as f
from bench.lab import MEMORY, capture, fill, loop_device, sparse_device
from bench.process import MIB, PeakMemory, cpu_seconds, resident_bytes
from proof.lab import Engine, Lab, environment, wait_for
from rha.capture import bpf, pins

STATUS_RUNS = 20
IDLE_SECONDS = 5
DISK_BYTES = 512 << 20
LOAD = ["--rw=randwrite", "--bs=64k", "--iodepth=4", "--runtime=5", "--time_based", "--rate=200m"]
BITMAPS = ("dirty", "pending")


def measure() -> dict[str, object]:
    """MiB, seconds and processors (1.0: one core), as the names say. The appliance is the real one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, MEMORY, stack)
        device = stack.enter_context(loop_device(DISK_BYTES))
        fill(device, DISK_BYTES)
        lab.appliance.start()
        engine = lab.engine([device])
        found: dict[str, object] = {"load": f.load()}
        found |= _first_sync(engine)
        assert engine.process is not None
        found |= _idle(engine.process.pid)
        found |= _loaded(engine, device)
        seconds = [_status_seconds(folder / "run") for _ in range(STATUS_RUNS)]
        return found | {
            "status_seconds": round(median(seconds), 3),
            "status_seconds_max": round(max(seconds), 3),
            "bitmap_MiB_per_TiB": _bitmap_bytes() / MIB,
        }


def _first_sync(engine: Engine) -> dict[str, object]:
    """Of a disk full of random bytes."""
    engine.start()
    assert engine.process is not None
    pid = engine.process.pid
    with PeakMemory(pid) as memory:
        engine.wait_ordered()
        cpu = cpu_seconds(pid)
    return {
        "engine_sync_MiB": round(memory.bytes / MIB, 1),
        "engine_sync_cpu_seconds_per_GB": round(cpu / (DISK_BYTES / 1e9), 2),
    }


def _idle(pid: int) -> dict[str, object]:
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return {
        "engine_idle_MiB": round(resident_bytes(pid) / MIB, 1),
        "engine_idle_cores": round((cpu_seconds(pid) - before) / IDLE_SECONDS, 3),
    }


def _loaded(engine: Engine, device: str) -> dict[str, object]:
    """While fio writes 200 MiB/s in pieces of 64 KiB."""
    assert engine.process is not None
    pid = engine.process.pid
    before, payload = cpu_seconds(pid), engine.report()["payload_bytes"]
    with PeakMemory(pid) as memory:
        words = ["fio", "--name=load", f"--filename={device}", "--direct=1", "--ioengine=io_uring", *LOAD]
        subprocess.run(words, check=True, capture_output=True)
        wait_for(lambda: engine.report()["lag_bytes"] == 0, 60, engine.log)
    gigabytes = (engine.report()["payload_bytes"] - payload) / 1e9
    return {
        "engine_loaded_MiB": round(memory.bytes / MIB, 1),
        "engine_loaded_cpu_seconds_per_GB": round((cpu_seconds(pid) - before) / gigabytes, 2),
    }


def _status_seconds(run_dir: Path) -> float:
    rha = Path(sys.executable).parent / "rha"
    begin = time.monotonic()
    subprocess.run([rha, "status"], env=environment(run_dir), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def _bitmap_bytes() -> int:
    """What the kernel accounts for the bitmaps of a disk of 1 TiB."""
    with sparse_device(1 << 40) as device, capture(device, 4 << 20) as running:
        return sum(_map_bytes(running.scenario, name) for name in BITMAPS)


def _map_bytes(scenario: str, name: str) -> int:
    fd = bpf.get(pins.folder(scenario) / name)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
    finally:
        os.close(fd)
