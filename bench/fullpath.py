"""The whole path: fio → probe → TLS → journal, made durable → qcow2. The highest rate that it carries without falling
behind, found by halving; beside what fio alone writes to the disk that holds journal and image."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import figures as f
from bench.lab import MEMORY, fill, loop_device
from proof.lab import Engine, Lab

STEPS = 5
SECONDS = 6
WARM_UP_SECONDS = 2
LAG_SECONDS = 1.0
PAUSE_SECONDS = 0.01
LEAST_MBPS, MOST_MBPS = 16.0, 1024.0
DISK_BYTES = 1 << 30
SETTLE_SECONDS = 120
JOBS = {  # size of the writes in bytes, and how many at a time
    "4 KiB random": (4 << 10, 32),
    "64 KiB random": (64 << 10, 16),
    "1 MiB random": (1 << 20, 4),
}

Row = dict[str, object]


def measure() -> list[Row]:
    """One row per size of writes; MB = 10^6 bytes. Clusters of the image are allocated by then: the first sync is of a
    full disk."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, MEMORY, stack)
        device = stack.enter_context(loop_device(DISK_BYTES))
        fill(device, DISK_BYTES)
        lab.appliance.start()
        # Both ends share the processors: an appliance that waits for them would look like a slow line to compress for.
        engine = lab.engine([device], ring="256MiB", link='compression = "none"\n')
        engine.start()
        return [_row(lab, engine, device, name, *job) for name, job in JOBS.items()]


def _row(lab: Lab, engine: Engine, device: str, name: str, size: int, depth: int) -> Row:
    alone = _alone(lab.folder / "alone", size, depth)
    least, most = LEAST_MBPS, MOST_MBPS
    carried, steps = 0.0, []
    for _ in range(STEPS):
        wanted = (least * most) ** 0.5
        _settle(lab, engine)
        rate, lag = _step(lab, engine, device, size, depth, wanted)
        steps.append([round(wanted), round(rate), round(lag, 2)])
        if lag <= LAG_SECONDS:
            least, carried = wanted, max(carried, rate)
        else:
            most = wanted
    return {
        "name": name,
        "load": f.load(),
        "sustained_MBps": round(carried),
        "disk_alone_MBps": round(alone),
        "steps_wanted_reached_lag": steps,
    }


def _settle(lab: Lab, engine: Engine) -> None:
    """Until everything is in the images, after a step that was too fast too."""
    engine.wait_ordered(SETTLE_SECONDS)
    lab.appliance.wait_applied(engine.name, SETTLE_SECONDS)


def _step(lab: Lab, engine: Engine, device: str, size: int, depth: int, wanted: float) -> tuple[float, float]:
    """Writes for SECONDS at the wanted MB/s or less. Returns the rate reached and the longest lag in seconds: what was
    captured and is not in the images, at that rate; infinite when order was lost."""
    before, losses = engine.report(), engine.losses()
    begin = time.monotonic()
    # `--rate` spins between two writes, with up to 40 % of a processor, and processors are what all of this shares. So
    # what belongs into PAUSE_SECONDS is written, and then it sleeps; the time of the writes comes on top of that.
    blocks = max(1, round(wanted * 1e6 * PAUSE_SECONDS / size))
    pauses = [f"--thinktime={int(PAUSE_SECONDS * 1e6)}", f"--thinktime_blocks={blocks}"]
    limits = ["--time_based", f"--runtime={SECONDS}", *pauses]
    writer = subprocess.Popen(
        ["fio", "--name=step", f"--filename={device}", *_words(size, depth), *limits],
        stdout=subprocess.DEVNULL,
    )
    behind = 0
    while writer.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - begin > WARM_UP_SECONDS:
            behind = max(behind, engine.report()["lag_bytes"] + lab.appliance.report(engine.name)["lag_bytes"])
    assert writer.returncode == 0, "fio failed"
    rate = (engine.report()["payload_bytes"] - before["payload_bytes"]) / 1e6 / (time.monotonic() - begin)
    return rate, float("inf") if engine.losses() != losses else behind / 1e6 / rate


def _words(size: int, depth: int) -> list[str]:
    return ["--direct=1", "--ioengine=io_uring", "--rw=randwrite", f"--bs={size}", f"--iodepth={depth}"]


def _alone(file: Path, size: int, depth: int) -> float:
    """MB/s of fio on a file of the same file system, all of it there before: what no path over this disk can pass."""
    fill(str(file), DISK_BYTES)
    command = ["fio", "--name=alone", f"--filename={file}", f"--size={DISK_BYTES}", *_words(size, depth)]
    command += ["--time_based", f"--runtime={SECONDS / 2}", "--output-format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    file.unlink()
    return float(json.loads(done.stdout)["jobs"][0]["write"]["bw_bytes"]) / 1e6
