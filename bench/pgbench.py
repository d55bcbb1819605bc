"""What rha costs a database: pgbench on an ext4 of a disk in memory, without, captured only, captured and shipped, in
turn, in one run. The cluster is our own, in the disk, and is gone with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from bench import figures as f
from bench.lab import loop_device
from bench.ways import CAPTURED, NAMES, SHIPPED, WITHOUT, Ways, acknowledging_lab, first_sync
from proof.lab import Lab, run

ROUNDS = 5
SECONDS = 5
SCALE = 10  # 150 MB of tables
CLIENTS = 4
DISK_BYTES = 1 << 30
USER = "postgres"


class Run(NamedTuple):
    """One pgbench run; latencies of transactions in milliseconds."""

    tps: float
    mean: float
    p99: float


def measure() -> list[dict[str, object]]:
    """One row: medians without rha, and the ratios of both ways pair by pair."""
    with loop_device(DISK_BYTES) as device, acknowledging_lab() as lab:
        engine = lab.engine([device], ring="256MiB")
        first_sync(engine)
        ways = Ways(device, engine)
        with _cluster(lab, device) as socket_folder:
            return [_row(ways, socket_folder)]


def _row(ways: Ways, socket_folder: Path) -> dict[str, object]:
    runs: dict[str, list[Run]] = {way: [] for way in NAMES}
    cpu: list[float] = []
    for _ in range(ROUNDS):
        for way in NAMES:
            with ways.go(way):
                runs[way].append(_pgbench(socket_folder))
        cpu.append(ways.engine_cpu / SECONDS)
    without = runs[WITHOUT]
    return {
        "name": f"pgbench, {CLIENTS} clients, scale {SCALE}",
        "load": f.load(),
        "tps": round(median(run.tps for run in without)),
        "mean_ms": round(median(run.mean for run in without), 2),
        "p99_ms": round(median(run.p99 for run in without), 2),
        **{way: f.against(runs[way], without) for way in (CAPTURED, SHIPPED)},
        "engine_cores": f.spread(cpu),
        "lost": ways.lost,
    }


def _program(name: str) -> str:
    """A PostgreSQL program: Debian keeps servers of several versions side by side, outside the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    assert found, f"no {name}: apt-get install postgresql"
    return str(found[-1])


def _as_user(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """PostgreSQL refuses to run as root."""
    command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def _cluster(lab: Lab, device: str) -> Iterator[Path]:
    """A cluster with pgbench's tables on the device; yields the folder of its socket, which is not on it."""
    data, outside = lab.mount(device, "ext4") / "data", lab.folder / "postgresql"
    lab.folder.chmod(0o711)
    for folder in (data, outside):
        folder.mkdir(mode=0o700)
        os.chown(folder, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    _as_user(_program("initdb"), "--auth=trust", "--no-sync", "-D", data)
    options = f"-c listen_addresses= -c unix_socket_directories={outside} -c shared_buffers=256MB -c fsync=on"
    control = (_program("pg_ctl"), "-D", data, "-w")
    _as_user(*control, "-l", outside / "server.log", "-o", options, "start")
    try:
        _as_user(_program("pgbench"), "-h", outside, "-i", "-q", "-s", SCALE, "postgres")
        yield outside
    finally:
        _as_user(*control, "-m", "immediate", "stop")
        run("umount", data.parent)


def _pgbench(outside: Path) -> Run:
    """One run after a checkpoint, so that each begins alike."""
    _as_user(_program("psql"), "-h", outside, "-q", "-c", "checkpoint", "postgres")
    prefix = outside / "transactions"
    words = ["-h", outside, "-c", CLIENTS, "-T", SECONDS, "-l", f"--log-prefix={prefix}", "postgres"]
    said = _as_user(_program("pgbench"), *words).stdout
    found = re.search(r"tps = ([\d.]+)", said)
    assert found, said
    files = list(outside.glob("transactions.*"))
    latencies = np.concatenate([np.loadtxt(file, usecols=2, ndmin=1) for file in files]) / 1000
    for file in files:
        file.unlink()
    return Run(float(found[1]), float(latencies.mean()), float(np.percentile(latencies, 99)))
