"""One machine of the lab: it boots, runs commands, gets and loses disks, reboots, and loses its power.

    with Machine("master", folder, disks=[disk.make(folder, "data", 1 << 30, "nvme")]) as machine:
        machine.start()
        print(machine.run("lsblk"))
        machine.cut_power()
        machine.start()

Nothing here sleeps: the agent's announcement is the end of a boot, its answer the end of a command. Start machines from
a thread that outlives them: QEMU is told to die with the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rha.errors import StateError, VmError
from rha.vm import accelerator
from vmlab import disk as disks
from vmlab import image, qemu
from vmlab.disk import Disk
from vmlab.monitor import Monitor
from vmlab.network import USER, Card
from vmlab.wire import Answer, Gone, Wire

BOOT_SECONDS = 600.0  # 25 under TCG on an idle host, 170 were seen on a busy one
DISKS_SECONDS = 60.0
RUN_SECONDS = 120.0
OFF_SECONDS = 60.0
REST_SECONDS = 120.0
REST_BYTES_PER_SECOND = 16 << 30  # no limit
LINES_SHOWN = 15
KEPT = "kept"
# $1 script, $2 seconds, $3 pause. Its pauses are in the machine: over the agent's port each look would cost a process.
_REPEAT = """
until out=$(bash -euo pipefail -c "$1" 2>&1); do
    if ((SECONDS >= $2)); then printf '%s' "$out"; exit 1; fi
    sleep "$3"
done
printf '%s' "$out"
"""


class Machine:
    """`cpus` × `memory_mib` of Debian 12. Its system disk is an overlay that lives as long as the object: a power cut
    keeps what was written, another machine never sees it. `run` and the like may be called from any thread.

    With a `system` of its own (raw, bootable by BIOS, with the lab's agent inside) nothing is laid over that file, and
    it stays."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        disks: Sequence[Disk] = (),
        cards: Sequence[Card] = (USER,),
        memory_mib: int = 1024,
        cpus: int = 1,
        system: Path | None = None,
    ) -> None:
        """`folder` takes the overlay and the console's log, `NAME.console`. Raises HostError, VmError."""
        base = None if system else image.base()
        self.name, self.folder = name, folder
        self.console = folder / f"{name}.console"
        self._overlay = folder / f"{name}.qcow2"
        if base:
            _tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base.disk), str(self._overlay))
        self._hardware = qemu.Hardware(
            name=name,
            accelerator=accelerator.choose().name,
            memory_mib=memory_mib,
            cpus=cpus,
            kernel=base.kernel if base else None,
            initrd=base.initrd if base else None,
            system=system or self._overlay,
            format="raw" if system else "qcow2",
            tree=image.tree() if base else None,
            console=self.console,
            disks=tuple(disks),
            cards=tuple(cards),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self.monitor: Monitor | None = None
        self._free_ports = [f"hot{i}" for i in range(qemu.HOT_PORTS)]
        self._ports: dict[str, str] = {}

    # Power ----------------------------------------------------------------------------------------------------

    def start(self) -> float:
        """Power on; returns when the machine runs commands. Seconds it took.

        Raises VmError with the console's last lines when it does not come up.
        """
        self.power_on()
        return self.wait_up()

    def keep(self) -> None:
        """Keeps the machine as it runs now, memory and system disk, for `resume`. It may have no disk of its own now: a
        disk goes on, and what the kept memory says of it would be wrong.

        Raises StateError, VmError.
        """
        if self.disks:
            raise StateError(f"machine {self.name} has disks", cause=", ".join(one.name for one in self.disks))
        self._monitor().execute("human-monitor-command", **{"command-line": f"delvm {KEPT}"})
        said = self._monitor().execute("human-monitor-command", **{"command-line": f"savevm {KEPT}"})
        if said:
            raise VmError(f"machine {self.name} cannot be kept", cause=said.strip())

    def resume(self) -> None:
        """Power on as it was at `keep`, with the clock of now: a boot that takes seconds. Disks are attached again by
        the caller. Raises VmError."""
        self._hardware = replace(self._hardware, disks=())
        self.power_on(kept=KEPT)
        try:
            self.run("date", "-s", f"@{time.time()}")
        except Gone as error:
            raise self._not_up("QEMU ended") from error

    def power_on(self, memory: Path | None = None, kept: str = "") -> None:
        """Power on, without waiting: several machines boot side by side. `wait_up` follows. `memory`: see `rest`;
        `kept`: see `keep`."""
        if self._process is not None:
            raise StateError(f"machine {self.name} runs already")
        agent, agent_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        taps = [card.tap for card in self._hardware.cards if card.tap is not None]
        with agent_end, monitor_end, (self.folder / f"{self.name}.qemu").open("ab") as log:
            ends = (agent_end.fileno(), monitor_end.fileno())
            words = qemu.words(self._hardware, *ends, memory, kept)
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[*ends, *taps]
            )
        self._wire, self.monitor = Wire(agent), Monitor(monitor)

    def wait_up(self, boots: int = 0) -> float:
        """Until the agent of the boot after the first `boots` ones of this power-on answers, and the disks are there.
        Seconds it took."""
        begun = time.monotonic()
        try:
            is_up = self._running().wait_boot(boots, BOOT_SECONDS)
        except Gone as error:
            raise self._not_up("QEMU ended") from error
        if not is_up:
            raise self._not_up(f"no agent within {BOOT_SECONDS:.0f} s")
        if self.disks:  # the agent may be quicker than udev
            self.wait_until(" && ".join(f"test -b {disk.path}" for disk in self.disks), DISKS_SECONDS)
        return time.monotonic() - begun

    def _not_up(self, why: str) -> VmError:
        logs = (self.folder / f"{self.name}.qemu", self.console)
        lines = [line for log in logs if log.exists() for line in _last_lines(log)]
        return VmError(f"machine {self.name} does not boot: {why}", cause="\n       ".join(lines))

    def rest(self, memory: Path) -> None:
        """Stands still, writes its memory to a file, and is off. `wake` goes on from there, also another machine of the
        same make: with copies of the disks of this moment. Raises VmError."""
        monitor = self._monitor()
        monitor.execute("stop")
        monitor.execute("migrate-set-parameters", **{"max-bandwidth": REST_BYTES_PER_SECOND})
        monitor.execute("migrate", uri=f"exec:cat >'{memory}'")
        self._wait_written(monitor)
        self.cut_power()

    def wake(self, memory: Path) -> None:
        """Goes on where `rest` has stopped; its clock is set. Connections that it had are gone, and it learns that by
        itself. Raises VmError."""
        self.power_on(memory)
        monitor, until = self._monitor(), time.monotonic() + REST_SECONDS
        while monitor.execute("query-status")["status"] == "inmigrate":
            if time.monotonic() > until:
                raise self._not_up("it does not wake")
            time.sleep(0.1)
        monitor.execute("cont")  # it was stopped when it was put to rest, and is so still
        self.run("date", "--set", f"@{time.time():.3f}")

    def _wait_written(self, monitor: Monitor) -> None:
        until = time.monotonic() + REST_SECONDS
        while (found := monitor.execute("query-migrate"))["status"] != "completed":
            if found["status"] in ("failed", "cancelled") or time.monotonic() > until:
                raise VmError(f"machine {self.name} cannot rest", cause=str(found.get("error-desc", found["status"])))
            time.sleep(0.1)

    def cut_power(self) -> None:
        """QEMU is killed: what the guest had not written is lost. Does nothing when it is off."""
        if self._process is not None:
            self._process.kill()
        self._take_down()

    def power_off(self) -> None:
        """An orderly shutdown, waited for."""
        process = self._process
        self.call("systemctl", "--no-block", "poweroff")
        if process is not None:
            process.wait(OFF_SECONDS)
        self._take_down()

    def reboot(self) -> float:
        """An orderly reboot; returns when the machine runs commands again. Seconds it took."""
        wire = self._running()
        boots = wire.boots()
        self.call("systemctl", "--no-block", "reboot")
        return self.wait_up(boots)

    def _take_down(self) -> None:
        process, self._process = self._process, None
        wire, self._wire = self._wire, None
        monitor, self.monitor = self.monitor, None
        if process is not None:
            process.wait()
        if wire is not None:
            wire.close()
        if monitor is not None:
            monitor.close()
        for name in list(self._ports):
            self._free_ports.append(self._ports.pop(name))  # at the next power-on every disk has a place of its own

    @property
    def is_on(self) -> bool:
        """QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """QEMU's; None when the machine was not started, or its end was noticed."""
        return self._process.pid if self._process else None

    # Commands -------------------------------------------------------------------------------------------------

    def call(self, *words: object, stdin: bytes = b"", timeout: float = RUN_SECONDS) -> Answer:
        """Runs a command and gives its end as it is.

        Raises Gone when the machine goes away meanwhile.
        """
        return self._running().call([str(word) for word in words], stdin, timeout)

    def run(self, *words: object, stdin: bytes = b"", timeout: float = RUN_SECONDS) -> str:
        """A command's standard output, stripped.

        Raises VmError with what it said when it does not end well.
        """
        answer = self.call(*words, stdin=stdin, timeout=timeout)
        if answer.code != 0:
            end = "its time was over" if answer.code is None else f"exit {answer.code}"
            said = (answer.stdout + answer.stderr).decode(errors="replace").strip()
            raise VmError(f"{self.name}: {' '.join(map(str, words))[:300]}: {end}", cause=said)
        return answer.stdout.decode(errors="replace").strip()

    def sh(self, script: str, *, timeout: float = RUN_SECONDS) -> str:
        """A bash script's standard output; it ends at its first failure."""
        return self.run("bash", "-euo", "pipefail", "-c", script, timeout=timeout)

    def put(self, path: str, content: str | bytes) -> None:
        """Writes a file of root's, its folders too."""
        data = content.encode() if isinstance(content, str) else content
        self.run("bash", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "put", path, stdin=data)

    def get(self, path: str) -> bytes:
        """A file's content."""
        answer = self.call("cat", path)
        if answer.code != 0:
            raise VmError(f"{self.name}: {path} cannot be read", cause=answer.stderr.decode(errors="replace").strip())
        return answer.stdout

    def wait_until(self, script: str, timeout: float, *, every: float = 0.5) -> str:
        """Repeats a bash script inside the machine until it ends well; its output then.

        Raises VmError with its last words after `timeout` seconds.
        """
        return self.run("bash", "-c", _REPEAT, "wait", script, int(timeout), every, timeout=timeout + 30)

    def address(self, card: Card, address: str) -> None:
        """Gives a card an address (`10.9.0.1/24`) until the next boot."""
        name = self.sh(f"basename $(dirname $(grep -l {card.mac} /sys/class/net/*/address))")
        self.run("ip", "address", "replace", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    # Disks ----------------------------------------------------------------------------------------------------

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks that it has now, without system and tree."""
        return self._hardware.disks

    def attach(self, disk: Disk) -> None:
        """Adds a disk while the machine runs; returns when it is there under its name. Not for AHCI."""
        monitor = self._monitor()
        monitor.execute("blockdev-add", **disks.node(disk))
        place = None
        if disk.bus in ("virtio", "nvme"):
            place = self._ports[disk.name] = self._free_ports.pop()
        monitor.execute("device_add", **disks.device(disk, place))
        self._hardware = replace(self._hardware, disks=(*self._hardware.disks, disk))
        self.wait_until(f"test -b {disk.path}", 60)

    def detach(self, disk: Disk) -> None:
        """Pulls a disk out; returns when QEMU has let go of it. A virtio or NVMe disk must have been attached with
        `attach`: only the ports for that can be unplugged."""
        monitor = self._monitor()
        monitor.execute("device_del", id=f"dev-{disk.name}")
        monitor.wait_event("DEVICE_DELETED", lambda data: data.get("device") == f"dev-{disk.name}", 60)
        monitor.execute("blockdev-del", **{"node-name": disk.name})
        if disk.name in self._ports:
            self._free_ports.append(self._ports.pop(disk.name))
        remaining = tuple(one for one in self._hardware.disks if one.name != disk.name)
        self._hardware = replace(self._hardware, disks=remaining)

    def resize(self, disk: Disk, size: int) -> None:
        """Makes a disk longer; the guest is told."""
        self._monitor().execute("block_resize", **{"node-name": disk.name}, size=size)

    def _running(self) -> Wire:
        if self._wire is None:
            raise StateError(f"machine {self.name} is off")
        return self._wire

    def _monitor(self) -> Monitor:
        if self.monitor is None:
            raise StateError(f"machine {self.name} is off")
        return self.monitor

    def close(self) -> None:
        """Cuts the power and removes the overlay; the console's log stays with the folder."""
        self.cut_power()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._overlay)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _last_lines(log: Path) -> list[str]:
    return [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-LINES_SHOWN:]


def _tool(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{words[0]} failed", cause=done.stderr.strip())
