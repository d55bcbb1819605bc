"""Many masters on one appliance: what each of them costs it, and whether it is fair.

The appliance is the real daemon; the masters are real sessions over TLS that send a recorded run of writes, without a
probe (proof/stranger.py): fifty of those on one host would measure the probes. Masters and appliance share this host's
processors, so the sums are no limit of an appliance; the shares are what counts.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import figures as f
from bench.process import MIB, PeakMemory, cpu_seconds, resident_bytes
from proof.lab import Lab, wait_for
from proof.stranger import Feeder

COUNTS = (1, 10, 50)
SETTLE_SECONDS, WINDOW_SECONDS, IDLE_SECONDS = 3.0, 10.0, 5.0
PACED = 256 << 10  # bytes a second of a master that has little to send
SETTINGS = 'window = "2min"\nwindow_bytes = "64MiB"\n'


def measure() -> list[dict[str, object]]:
    """One row for each number of masters."""
    return [_measure(count) for count in COUNTS]


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything (Jain, Chiu and Hawe, DEC TR-301)."""
    squares = len(shares) * sum(share * share for share in shares)
    return sum(shares) ** 2 / squares if squares else 1.0


def _measure(count: int) -> dict[str, object]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, Path("/dev/shm"), stack, settings=SETTINGS)
        lab.appliance.start()
        assert lab.appliance.process is not None
        pid = lab.appliance.process.pid
        found: dict[str, object] = {
            "name": f"{count} masters",
            "load": f.load(),
            "empty_MiB": round(resident_bytes(pid) / MIB, 1),
        }
        feeders = [Feeder(lab, f"m{number}", rate=0.001) for number in range(count)]
        for feeder in feeders:
            stack.callback(feeder.stop)
            feeder.greet()
            feeder.start()  # who says nothing for half a minute is hung up on
        found |= _idle(pid)
    return found | _equal(count) | _flooded(count)


def _idle(pid: int) -> dict[str, object]:
    """Connected, synced, and nothing to do."""
    time.sleep(SETTLE_SECONDS)
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    helpers = storage_daemons(pid)
    return {
        "idle_cores": round((cpu_seconds(pid) - before) / IDLE_SECONDS, 3),
        "idle_MiB": round(resident_bytes(pid) / MIB, 1),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "storage_daemons": len(helpers),
        "storage_daemons_MiB": round(sum(proportional_bytes(one) for one in helpers) / MIB, 1),
    }


def storage_daemons(pid: int) -> list[int]:
    """The appliance's children, whichever thread has started them."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def proportional_bytes(pid: int) -> int:
    """Resident memory, what is shared with others divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _equal(count: int) -> dict[str, object]:
    """All send as fast as they are let."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, Path("/dev/shm"), stack, settings=SETTINGS)
        lab.appliance.start()
        assert lab.appliance.process is not None
        feeders = _started(lab, stack, [0.0] * count)
        with PeakMemory(lab.appliance.process.pid) as memory:
            before = [feeder.applied for feeder in feeders]
            shares = rates(feeders)
            applied = [feeder.applied - old for feeder, old in zip(feeders, before, strict=True)]
        return {
            "equal_MB_s": round(sum(shares) / 1e6, 1),
            "equal_jain": round(jain(shares), 3),
            "applied_jain": round(jain(applied), 3),
            "equal_least_MB_s": round(min(shares) / 1e6, 2),
            "equal_most_MB_s": round(max(shares) / 1e6, 2),
            "loaded_MiB": round(memory.bytes / MIB, 1),
        }


def _flooded(count: int) -> dict[str, object]:
    """One sends as fast as it is let, the others have little to send: how long these wait for an acknowledgement."""
    if count < 2:
        return {}
    found: dict[str, object] = {}
    for name, first in (("calm", PACED), ("flood", 0.0)):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
            lab = Lab(folder, Path("/dev/shm"), stack, settings=SETTINGS)
            lab.appliance.start()
            feeders = _started(lab, stack, [first, *[float(PACED)] * (count - 1)])
            shares = rates(feeders)
            delays = sorted(delay for feeder in feeders[1:] for delay in feeder.delays)
            found[f"{name}_wait_ms"] = round(1000 * statistics.median(delays), 1)
            found[f"{name}_wait_99_ms"] = round(1000 * delays[len(delays) * 99 // 100], 1)
            found[f"{name}_paced_share"] = round(sum(shares[1:]) / (PACED * (count - 1)), 2)
            found[f"{name}_first_MB_s"] = round(shares[0] / 1e6, 1)
    return found


def _started(lab: Lab, stack: ExitStack, paces: Sequence[float]) -> list[Feeder]:
    """Connected masters that send; a paced one in frames of 64 KiB."""
    feeders = [Feeder(lab, f"m{number}", rate=rate, count=1 if rate else 16) for number, rate in enumerate(paces)]
    for feeder in feeders:
        stack.callback(feeder.stop)
        feeder.greet()
        feeder.start()
    wait_for(lambda: all(feeder.acknowledged for feeder in feeders), 60, "not every master is served")
    time.sleep(SETTLE_SECONDS)
    return feeders


def rates(feeders: Sequence[Feeder], seconds: float = WINDOW_SECONDS) -> list[float]:
    """Bytes a second that each master was acknowledged."""
    for feeder in feeders:
        feeder.delays.clear()
    begin, before = time.monotonic(), [feeder.acknowledged for feeder in feeders]
    time.sleep(seconds)
    took = time.monotonic() - begin
    return [(feeder.acknowledged - old) / took for feeder, old in zip(feeders, before, strict=True)]


if __name__ == "__main__":
    print(f.load(), *measure(), sep="\n")
