"""Fifty real masters on one appliance: each a disk, a probe, an engine and a load of its own; in the end every image is
its disk, byte by byte.

    python -m bench.fleet [COUNT]

`bench masters` has fifty sessions without probes, for what an appliance can carry. Here nothing is left out, and all of
it shares this host: each write passes the probes of all masters, since each looks at every disk of its kernel. So what
is shown is that it works, what it takes, and that one master in a hurry takes nothing from the others.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import figures as f
from bench.masters import SETTINGS, jain, proportional_bytes, storage_daemons
from bench.process import MIB, PeakMemory, cpu_seconds, resident_bytes
from proof.lab import Disk, Engine, Lab, run, wait_for
from proof.position import Position
from rha.control import local

COUNT, GROUP = 50, 4  # so many start at a time: each loads its probe with a compiler
DISK_BYTES = 16 * MIB
RING = "16MiB"
HEARTBEAT = "1s"  # as an engine has it by default
PACE_KIB, HURRY_KIB = 32, 8192  # a second, of a master that has a little to write, and of the one that has much
IDLE_SECONDS, WARM_UP_SECONDS, WINDOW_SECONDS = 10.0, 4.0, 15.0
START_SECONDS, ORDER_SECONDS = 300.0, 600.0
WRITES = ["--rw=randwrite", "--bsrange=4k-16k", "--direct=1", "--thread", "--time_based", "--runtime=3600"]


def measure(count: int = COUNT) -> list[dict[str, object]]:
    """One row. AssertionError when an image is not its disk in the end, or a master with little to write lost order."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        lab = Lab(folder, Path("/dev/shm"), stack, settings=SETTINGS)
        lab.heartbeat = HEARTBEAT
        lab.appliance.start()
        fleet = _Fleet(lab, count, stack)
        found: dict[str, object] = {"name": f"{count} real masters", "load": f.load()}
        found |= fleet.start(stack)
        found |= fleet.idle()
        with _load(fleet.disks, PACE_KIB):
            found |= fleet.window("calm", fleet.members)
            with _load(fleet.disks[:1], HURRY_KIB):
                found |= fleet.window("hurry", fleet.members[1:])
        return [found | fleet.judged()]


class _Member:
    """One master. `position` once its probe is loaded."""

    def __init__(self, engine: Engine, disk: Disk) -> None:
        self.engine, self.disk = engine, disk
        self.position: Position

    def has_begun(self) -> bool:
        """Raises AssertionError when its engine has ended."""
        assert self.engine.is_running, self.engine.log()
        return local.answers(self.engine.socket)

    @property
    def pid(self) -> int:
        assert self.engine.process is not None
        return self.engine.process.pid


class _Fleet:
    """All of them, and their appliance."""

    def __init__(self, lab: Lab, count: int, stack: ExitStack) -> None:
        self._lab, self.members = lab, []
        for number in range(count):
            disk = lab.disk(DISK_BYTES)
            engine = lab.engine([disk.path], name=f"fleet-{os.getpid()}-{number}", ring=RING)
            self.members.append(_Member(engine, disk))
        self.disks = [member.disk for member in self.members]
        assert lab.appliance.process is not None
        self._appliance = lab.appliance.process.pid

    def start(self, stack: ExitStack) -> dict[str, object]:
        """Every master in write order."""
        begin = time.monotonic()
        for first in range(0, len(self.members), GROUP):
            group = self.members[first : first + GROUP]
            for member in group:
                member.engine.launch()
            for member in group:
                wait_for(member.has_begun, START_SECONDS, member.engine.log)
                member.position = stack.enter_context(Position(member.engine.name))
        for member in self.members:
            member.engine.wait_ordered(ORDER_SECONDS)
        spent = [cpu_seconds(member.pid) for member in self.members]
        return {
            "start_seconds": round(time.monotonic() - begin, 1),
            "start_engine_cpu_seconds": f.spread(spent),
            "start_appliance_cpu_seconds": round(cpu_seconds(self._appliance), 1),
        }

    def idle(self) -> dict[str, object]:
        """Nothing is written."""
        used = self._spent()
        time.sleep(IDLE_SECONDS)
        engines = [resident_bytes(member.pid) / MIB for member in self.members]
        helpers = storage_daemons(self._appliance)
        return {
            **{f"idle_{name}_cores": round(value / IDLE_SECONDS, 3) for name, value in self._spent(used).items()},
            "idle_engine_MiB": f.spread(engines, 1),
            "idle_engines_PSS_MiB": round(sum(proportional_bytes(one.pid) for one in self.members) / MIB),
            "idle_appliance_MiB": round(resident_bytes(self._appliance) / MIB, 1),
            "storage_daemons_PSS_MiB": round(sum(map(proportional_bytes, helpers)) / MIB, 1),
            "appliance_threads": len(os.listdir(f"/proc/{self._appliance}/task")),
        }

    def _spent(self, before: dict[str, float] | None = None) -> dict[str, float]:
        """Processor seconds so far, or since then."""
        now = {
            "engines": sum(cpu_seconds(member.pid) for member in self.members),
            "appliance": cpu_seconds(self._appliance),
            "storage_daemons": sum(map(cpu_seconds, storage_daemons(self._appliance))),
        }
        return now if before is None else {name: value - before[name] for name, value in now.items()}

    def window(self, name: str, watched: Sequence[_Member]) -> dict[str, object]:
        """While something is written: what each of `watched` was acknowledged, how much waited for that, what it
        took."""
        time.sleep(WARM_UP_SECONDS)
        used, begin = self._spent(), time.monotonic()
        written = [member.position.now() for member in watched]
        before = [member.position.acknowledged() for member in watched]
        waiting: list[float] = []
        with PeakMemory(self._appliance) as memory:
            while time.monotonic() < begin + WINDOW_SECONDS:
                time.sleep(0.5)
                waiting += [(one.position.now() - one.position.acknowledged()) / 1024 for one in watched]
        seconds = time.monotonic() - begin
        rates = [(one.position.acknowledged() - old) / seconds for one, old in zip(watched, before, strict=True)]
        wanted = [(one.position.now() - old) / seconds for one, old in zip(watched, written, strict=True)]
        waiting.sort()
        return {
            f"{name}_written_MB_s": round(sum(wanted) / 1e6, 2),
            f"{name}_acknowledged_MB_s": round(sum(rates) / 1e6, 2),
            f"{name}_of_written": f.spread([rate / want for rate, want in zip(rates, wanted, strict=True)]),
            f"{name}_each_KB_s": f.spread([rate / 1e3 for rate in rates], 1),
            f"{name}_jain": round(jain(rates), 4),
            f"{name}_waiting_KiB": [round(statistics.median(waiting), 1), round(waiting[len(waiting) * 99 // 100], 1)],
            **{f"{name}_{who}_cores": round(value / seconds, 2) for who, value in self._spent(used).items()},
            f"{name}_appliance_MiB": round(memory.bytes / MIB, 1),
        }

    def judged(self) -> dict[str, object]:
        """Everything quiet and stopped; each image against its disk."""
        for member in self.members:
            member.engine.wait_ordered(ORDER_SECONDS)
            self._lab.appliance.wait_applied(member.engine.name, ORDER_SECONDS)
        losses = [member.engine.losses() for member in self.members]
        assert not any(losses[1:]), f"a master with little to write lost order: {losses}"
        spent = self._spent()
        for member in self.members:
            member.disk.sync()
            member.engine.stop()
        self._lab.appliance.stop()
        for member in self.members:
            image = self._lab.appliance.image(member.engine.name, "d0")
            run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, member.disk.file)
        return {
            **{f"{name}_cpu_seconds": round(value, 1) for name, value in spent.items()},
            "first_lost_order": losses[0] or "no",
            "images_equal": len(self.members),
        }


@contextmanager
def _load(disks: Sequence[Disk], kib_per_second: int) -> Iterator[None]:
    """Random writes to every disk until the block is left, at this rate each."""
    jobs = [word for number, disk in enumerate(disks) for word in (f"--name=m{number}", f"--filename={disk.path}")]
    process = subprocess.Popen(["fio", *WRITES, f"--rate={kib_per_second}k", *jobs], stdout=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, f"fio ended with {process.returncode}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    f.end_in_order()
    print(f.load(), *measure(*map(int, sys.argv[1:])), sep="\n")
