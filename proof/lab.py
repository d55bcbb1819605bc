"""A whole protected master on one host: its disks, the real engine and the real appliance as processes of their own.

Nothing here asks rha's own code whether the image is right: `Lab.assert_equal` lets qemu-img compare.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from rha import pki
from rha.control import local
from rha.errors import RhaError
from rha.journal.segment import Journal
from rha.wire.frames import FrameType

T = TypeVar("T")

MIB = 1 << 20
RHA = [sys.executable, "-c", "from rha.cli.main import main; main()"]
# The same program as an appliance with other constants: an interval of undo takes seconds and not minutes, a segment is
# full after some kills.
SMALL_STEPS = (
    "from rha.appliance import history; history.INTERVAL_BYTES = 24 << 20; history.INTERVAL_SECONDS = 10.0;"
    " from rha.journal.segment import Journal; Journal.open.__func__.__kwdefaults__['segment_bytes'] = 32 << 20;"
    " from rha.cli.main import main; main()"
)
POLL_SECONDS = 0.05
PATIENCE = 3  # times the limit that a quiet host would need: a busy one is no failure


def wait_for(
    predicate: Callable[[], T], timeout: float, what: Callable[[], object] | str = "", *, patience: float = PATIENCE
) -> T:
    """Asks until the answer is true, and returns it. AssertionError, with `what` of that moment, after `patience` times
    `timeout` seconds; 1 where the limit is what is tested."""
    end = time.monotonic() + patience * timeout
    while not (answer := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience * timeout:.0f} s: {what() if callable(what) else what}")
        time.sleep(POLL_SECONDS)
    return answer


def run(*words: object) -> str:
    """A tool's standard output; AssertionError with what it said when it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Disk:
    """A loop device on a sparse file in memory. `file` is what the device holds, once the page cache is written."""

    def __init__(self, stack: ExitStack, file: Path, size: int, *options: str) -> None:
        self.file, self.bytes = file, size
        stack.callback(file.unlink, missing_ok=True)
        with file.open("xb") as handle:
            handle.truncate(size)
        self.path = run("losetup", "--find", "--show", *options, file)
        stack.callback(subprocess.run, ["losetup", "--detach", self.path], check=True)

    def sync(self) -> None:
        """Writes out what the page cache holds of the device itself."""
        run("blockdev", "--flushbufs", self.path)


class Daemon:
    """One of rha's daemons as a process. `socket`: its control socket; `variables`: added to its environment; `wrap`:
    words in front of its command; `program`: what is run."""

    def __init__(self, words: list[str], control: Path, log: Path) -> None:
        self.words, self.socket, self.log_path = words, control, log
        self.variables: dict[str, str] = {}
        self.wrap: list[str] = []
        self.program = RHA
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.launch()
        wait_for(self._has_begun, 60, self.log)

    def launch(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrap, *self.program, *self.words],
                env=environment(self.socket.parent) | self.variables,
                stdout=log,
                stderr=log,
            )

    def _has_begun(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.words} ended: {self.log()}"
        return local.answers(self.socket)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, as a service manager does; it must end well."""
        status = self._end(signal.SIGTERM)
        assert status in (None, 0), f"{self.words} ended with {status}: {self.log()}"

    def _end(self, number: int) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.words} did not end after signal {number}: {self.log()}") from None

    def reports(self) -> list[dict[str, Any]]:
        """What it says now; empty while it does not answer."""
        try:
            return list(local.call(self.socket, "status"))
        except RhaError:
            return []


def environment(run_dir: Path) -> dict[str, str]:
    state = {"RHA_RUN_DIR": str(run_dir), "RHA_STATE_DIR": str(run_dir / "state")}
    return {**os.environ, **state, "PYTHONUNBUFFERED": "1"}


class Engine(Daemon):
    """The engine of one scenario, and its command line."""

    def __init__(self, name: str, folder: Path, scenario_file: Path) -> None:
        super().__init__(
            ["engine", "--scenario", str(scenario_file)],
            folder / "run" / f"engine-{name}.sock",
            folder / f"engine-{name}.log",
        )
        self.name, self.scenario_file = name, scenario_file

    def report(self) -> dict[str, Any]:
        return (self.reports() or [{"state": "silent", "disks": [], "connected": False}])[0]

    def state(self) -> str:
        return str(self.report()["state"])

    def losses(self) -> dict[str, int]:
        """Losses of order of all disks since the probe was loaded, by reason."""
        total: dict[str, int] = {}
        for disk in self.report()["disks"]:
            for reason, count in disk["losses"].items():
                total[reason] = total.get(reason, 0) + count
        return total

    def wait_ordered(self, timeout: float = 60) -> None:
        """Until every disk is in write order and everything captured is acknowledged."""
        wait_for(self._is_ordered, timeout, lambda: (self.report(), self.log()[-2000:]))

    def _is_ordered(self) -> bool:
        report = self.report()
        return bool(report["state"] == "write-order" and report["connected"] and report["lag_bytes"] == 0)

    def verify(self) -> dict[str, Any]:
        return dict(local.call(self.socket, "verify", timeout=120))

    def ended(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`rha engine --scenario FILE …` that is expected to end by itself: exit code and words."""
        return subprocess.run(
            [*RHA, *self.words, *options],
            env=environment(self.socket.parent),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def unload(self) -> None:
        self.kill()
        done = self.ended("--unload")
        assert done.returncode == 0, done.stderr


class Appliance(Daemon):
    """The appliance, and what lies in its store."""

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(
            ["appliance", "--config", str(config)], folder / "run/appliance.sock", folder / "appliance.log"
        )
        self.store = folder / "store"

    def report(self, name: str) -> dict[str, Any]:
        return next((one for one in self.reports() if one["scenario"] == name), {"state": "silent", "consistent": None})

    def wait_applied(self, name: str, timeout: float = 30) -> None:
        """Until everything durable is in the images and they are a state of the master."""

        def is_applied() -> bool:
            report = self.report(name)
            return bool(report["state"] == "consistent" and report["lag_bytes"] == 0)

        wait_for(is_applied, timeout, lambda: (self.report(name), self.log()[-2000:]))

    def image(self, name: str, disk: str) -> Path:
        return self.store / name / "images" / f"{disk}.qcow2"

    def journalled(self, name: str) -> list[FrameType]:
        """Kinds of all frames in the journal of a scenario; the appliance must not run."""
        with Journal.open(self.store / name / "journal") as journal:
            return [entry.header.type for entry in journal.read(journal.first)]


class Lab:
    """Everything of one test. Torn down by `stack`, whatever happens."""

    def __init__(self, folder: Path, memory: Path, stack: ExitStack, *, settings: str = "") -> None:
        """`folder` for logs, sockets and the store, `memory` for the disks' files, `settings`: further lines of the
        appliance's configuration."""
        self._settings = settings
        self.heartbeat = (
            "200ms"  # of the engines made from now on; far below the product's, so that tests need not wait
        )
        self.folder, self.memory, self.stack = folder, memory, stack
        (folder / "run").mkdir()
        self.pki = folder / "pki"
        pki.init(self.pki, "Lab")
        self.port = free_port()
        self.appliance = self._appliance()

    def _appliance(self) -> Appliance:
        mine = pki.issue_appliance(self.pki, "lab", ["127.0.0.1"])
        config = self.folder / "appliance.toml"
        config.write_text(
            f'listen = "127.0.0.1:{self.port}"\nstore = "{self.folder / "store"}"\nrun_dir = "{self.folder / "run"}"\n'
            f'ca = "{self.pki / "ca.pem"}"\ncertificate = "{mine.certificate}"\nkey = "{mine.key}"\n{self._settings}'
        )
        appliance = Appliance(self.folder, config)
        self.stack.callback(appliance.kill)
        return appliance

    def disk(self, size: int, *options: str) -> Disk:
        """A new disk of zeros. `options` for losetup."""
        file = self.memory / f"rha-lab-{os.getpid()}-{time.monotonic_ns()}.raw"
        return Disk(self.stack, file, size, *options)

    def certificate(self, scenario: str) -> pki.Pair:
        """The master's certificate of a scenario, issued at its first use."""
        pair = pki.Pair(self.pki / f"master-{scenario}.pem", self.pki / f"master-{scenario}.key")
        return pair if pair.certificate.exists() else pki.issue_master(self.pki, scenario)

    def engine(
        self,
        devices: list[str],
        *,
        name: str = "",
        ring: str = "64MiB",
        port: int | None = None,
        pair: pki.Pair | None = None,
        link: str = "",
        sync: str = "block",
        more: str = "",
    ) -> Engine:
        """The engine of a new scenario over these devices, called d0, d1, …; not started yet. `link`: more lines of
        that table, `sync`: the method, by default the one after which qemu-img finds no difference in free space
        either; `more`: more tables."""
        name = name or f"lab-{os.getpid()}"
        file = self.scenario_file(devices, name, ring=ring, port=port, pair=pair, link=link, sync=sync, more=more)
        engine = Engine(name, self.folder, file)
        self.stack.callback(engine.unload)
        return engine

    def scenario_file(
        self,
        devices: list[str],
        name: str,
        *,
        ring: str = "64MiB",
        port: int | None = None,
        pair: pki.Pair | None = None,
        link: str = "",
        sync: str = "block",
        more: str = "",
    ) -> Path:
        """The file of a scenario, as `engine` says."""
        pair = pair or self.certificate(name)
        file = self.folder / f"{name}.toml"
        timing = f'[link]\nheartbeat = "{self.heartbeat}"\n{link}'
        disks = "".join(f'[[disk]]\nname = "d{i}"\ndevice = "{path}"\n' for i, path in enumerate(devices))
        file.write_text(
            f'name = "{name}"\n{disks}[appliance]\naddress = "127.0.0.1:{port or self.port}"\n'
            f'ca = "{self.pki / "ca.pem"}"\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
            f'[capture]\nring = "{ring}"\n{timing}[sync]\nmethod = "{sync}"\n{more}'
        )
        return file

    def mount(self, device: str, kind: str) -> Path:
        """Makes a file system and mounts it."""
        run(f"mkfs.{kind}", "-F" if kind.startswith("ext") else "-f", device)
        point = self.folder / f"mnt-{Path(device).name}"
        point.mkdir()
        run("mount", device, point)
        self.stack.callback(subprocess.run, ["umount", "--quiet", str(point)], check=False, stderr=subprocess.DEVNULL)
        return point

    def assert_equal(self, engine: Engine, disks: list[Disk]) -> None:
        """The image is the disk: by `rha verify`, then by qemu-img, with both daemons stopped. Nothing writes
        meanwhile."""
        for disk in disks:
            disk.sync()
        engine.wait_ordered()
        answer = engine.verify()
        assert answer["equal"], answer
        assert answer["quiet"], answer
        self.appliance.wait_applied(engine.name)
        engine.stop()
        self.appliance.stop()
        for i, disk in enumerate(disks):
            run(
                "qemu-img", "compare", "-f", "qcow2", "-F", "raw", self.appliance.image(engine.name, f"d{i}"), disk.file
            )
