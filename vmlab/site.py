"""An appliance on this host, and masters in machines that it protects: the product as installed, its own units."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo import product
from demo.setting import free_ports
from rha import pki
from rha.control import local
from rha.errors import StateError, VmError
from vmlab.machine import Machine

HOST = "10.0.2.2"  # this host's loopback, as QEMU's user network shows it to a machine
ORDERED_SECONDS = 600.0
APPLIED_SECONDS = 60.0
EVERY_SECONDS = 0.1
_ASK = "/opt/rha/bin/python /opt/rha/vmlab/ask.py"


class Site:
    """A folder with certificates, the appliance's store and its log. Everything ends with the block."""

    def __init__(self, folder: Path, *, listen: str = "127.0.0.1", port: int = 0, more: str = "") -> None:
        """`listen`, `port`: where masters find it, 0: a free one; `more`: lines of its configuration. Certificates that
        the folder has already are used.

        Raises RhaError when the certificates cannot be made.
        """
        self.folder, self.store = folder, folder / "store"
        self.run_dir, self._pki = folder / "run", folder / "pki"
        self.run_dir.mkdir()
        self.store.mkdir()
        self.port = port or free_ports(1)[0]
        self._stack = ExitStack()
        mine = pki.Pair(self._pki / "appliance-lab.pem", self._pki / "appliance-lab.key")
        if not mine.certificate.exists():
            pki.init(self._pki, "Lab")
            mine = pki.issue_appliance(self._pki, "lab", [HOST, "127.0.0.1", listen])
        self._config = folder / "appliance.toml"
        self._config.write_text(
            f'listen = "{listen}:{self.port}"\nstore = "{self.store}"\nrun_dir = "{self.run_dir}"\n'
            f'ca = "{self._pki / "ca.pem"}"\ncertificate = "{mine.certificate}"\nkey = "{mine.key}"\n'
            'window_bytes = "64GiB"\n' + more  # an oracle replays all of the journal
        )
        self._daemon: product.Daemon | None = None

    def start(self) -> None:
        """Starts the appliance and waits until it answers; a second start after `stop` is a restart.

        Raises StateError with its last words when it ends instead.
        """
        words = ["--config", str(self._config)]
        self._daemon = product.Daemon("appliance", words, self.run_dir, self.folder / "appliance.log")
        self._stack.callback(self._daemon.stop)
        while not local.answers(self.run_dir / "appliance.sock"):
            self._daemon.check()
            time.sleep(EVERY_SECONDS)

    def stop(self) -> None:
        """SIGTERM, waited for: the images may be read now."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def kill(self) -> None:
        """`kill -9`; `start` follows."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.stop()
            self._daemon = None

    def image(self, scenario: str, disk: str) -> Path:
        """The replica of a disk."""
        return self.store / scenario / "images" / f"{disk}.qcow2"

    def journal(self, scenario: str) -> Path:
        """The folder of a scenario's recorded stream."""
        return self.store / scenario / "journal"

    def protect(self, machine: Machine, scenario: str, disks: Mapping[str, str], ring: str = "32MiB") -> Master:
        """Puts certificates, scenario file and units into a machine. `disks`: name → device there. Starts nothing."""
        pair = self.certificate(scenario)
        return install(machine, scenario, disks, self.ca, pair, f"{HOST}:{self.port}", ring)

    def wait_applied(self, scenario: str) -> None:
        """Until the images hold everything that the appliance acknowledged."""
        end = time.monotonic() + APPLIED_SECONDS
        while True:
            reports = product.reports(self.run_dir / "appliance.sock")
            mine = next((one for one in reports if one.scenario == scenario), None)
            if mine and mine.state == "consistent" and mine.lag_bytes == 0:
                return
            if time.monotonic() > end:
                what = f"{mine.state}: {mine.why}, {mine.lag_bytes} bytes to apply" if mine else "no report"
                raise StateError(f"{scenario}'s images are not complete after {APPLIED_SECONDS:.0f} s", cause=what)
            time.sleep(EVERY_SECONDS)

    @property
    def ca(self) -> Path:
        """The certificate of who has issued the others."""
        return self._pki / "ca.pem"

    def certificate(self, scenario: str) -> pki.Pair:
        """Issued at its first use."""
        pair = pki.Pair(self._pki / f"master-{scenario}.pem", self._pki / f"master-{scenario}.key")
        return pair if pair.certificate.exists() else pki.issue_master(self._pki, scenario)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def install(
    machine: Machine,
    scenario: str,
    disks: Mapping[str, str],
    ca: Path,
    pair: pki.Pair,
    address: str,
    ring: str,
) -> Master:
    """Makes a machine a master whose appliance listens at `address`; see `Site.protect`."""
    for path in (ca, pair.certificate, pair.key):
        machine.put(f"/etc/rha/pki/{path.name}", path.read_bytes())
    tables = "".join(f'[[disk]]\nname = "{name}"\ndevice = "{device}"\n' for name, device in disks.items())
    machine.put(
        f"/etc/rha/{scenario}.toml",
        f'name = "{scenario}"\n{tables}[appliance]\naddress = "{address}"\n'
        f'ca = "/etc/rha/pki/{ca.name}"\ncertificate = "/etc/rha/pki/{pair.certificate.name}"\n'
        f'key = "/etc/rha/pki/{pair.key.name}"\n[capture]\nring = "{ring}"\n[link]\nheartbeat = "500ms"\n'
        '[sync]\nmethod = "block"\n',
    )
    machine.sh("cp -u /opt/rha/packaging/rha-engine@.service /etc/systemd/system/ && systemctl daemon-reload")
    return Master(machine, scenario)


class Master:
    """One scenario of a machine."""

    def __init__(self, machine: Machine, scenario: str) -> None:
        self.machine, self.name = machine, scenario
        self.unit = f"rha-engine@{scenario}"

    def refusals(self) -> dict[str, str]:
        """Why disks of the scenario cannot be protected, by their names: what `rha scenario check --here` says."""
        answer = self.machine.call("rha", "scenario", "check", f"/etc/rha/{self.name}.toml", "--here")
        if answer.code == 0:
            return {}
        found: dict[str, str] = {}
        for line in answer.stderr.decode().splitlines():
            words = line.removeprefix("cause:").strip()
            if words.startswith("disk "):
                name, _, reason = words.removeprefix("disk ").partition(": ")
                found[name] = reason
        if not found:
            raise VmError(f"scenario {self.name} is refused", cause=answer.stderr.decode())
        return found

    def start(self) -> None:
        """`systemctl start`, through the product's unit."""
        self.machine.run("systemctl", "start", self.unit)

    def stop(self) -> None:
        """Stops the engine; the probe goes on capturing."""
        self.machine.run("systemctl", "stop", self.unit)

    def unload(self) -> None:
        """Stops the engine and takes the probe out of the kernel."""
        self.stop()
        self.machine.run("rha", "engine", "--scenario", f"/etc/rha/{self.name}.toml", "--unload")

    def report(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return dict(json.loads(self.machine.sh(f"{_ASK} {self.name} now 5")))

    def wait_ordered(self, timeout: float = ORDERED_SECONDS) -> dict[str, Any]:
        """Until every disk is in write order and everything captured is acknowledged; the report then.

        Raises VmError with the engine's log when it does not come to that.
        """
        return self.wait("ordered", timeout)

    def wait(self, what: str, timeout: float) -> dict[str, Any]:
        """Until the engine's report is `ordered` or another of vmlab/ask.py's words; the report then."""
        answer = self.machine.call("bash", "-c", f"{_ASK} {self.name} {what} {timeout}", timeout=timeout + 30)
        if answer.code != 0:
            raise VmError(
                f"{self.name} is not {what}, within {timeout:.0f} s",
                cause=answer.stdout.decode() + answer.stderr.decode() + "\n" + self.log(),
            )
        return dict(json.loads(answer.stdout))

    def history(self) -> list[dict[str, Any]]:
        """All changes of state, oldest first: what `rha history` says."""
        return list(json.loads(self.machine.run("rha", "history", self.name, "--json", "--last", 10000)))

    def log(self, lines: int = 20) -> str:
        """The engine's last words."""
        return self.machine.run("journalctl", "-q", "--no-pager", "-o", "cat", "-n", lines, "-u", self.unit)


def why_not_equal(image: Path, file: Path, offset: int, size: int) -> str | None:
    """What `qemu-img compare` has against a replica and the bytes [offset, offset + size) of a raw file; None when
    they are equal."""
    node = {"driver": "file", "filename": str(file)}
    part = json.dumps({"driver": "raw", "offset": offset, "size": size, "file": node})
    done = subprocess.run(
        ["qemu-img", "compare", "-U", str(image), f"json:{part}"], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()
