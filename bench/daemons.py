"""The daemons: memory of the engine besides its ring, and how long `rha status` takes to answer."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.lab.lab import MIB, Lab, environment

RUNS = 20


def measure() -> dict[str, object]:
    """Resident MiB of the engine without the ring's pages, idle in write order after a first sync of 256 MiB; seconds
    of `rha status` with an engine and an appliance running."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, Path("/dev/shm"), stack)
        disk = lab.disk(256 * MIB)
        lab.appliance.start()
        engine = lab.engine([disk.path])
        engine.start()
        engine.wait_ordered()
        assert engine.process is not None
        seconds = [_status_seconds(folder / "run") for _ in range(RUNS)]
        return {
            "engine_MiB": round(_resident(engine.process.pid) / MIB, 1),
            "status_seconds": round(median(seconds), 3),
            "status_seconds_max": round(max(seconds), 3),
        }


def _resident(pid: int) -> int:
    """Bytes of memory that are resident and not the ring, which /proc names bpf-map."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = "bpf" not in line
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def _status_seconds(run_dir: Path) -> float:
    rha = Path(sys.executable).parent / "rha"
    begin = time.monotonic()
    subprocess.run([rha, "status"], env=environment(run_dir), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin
