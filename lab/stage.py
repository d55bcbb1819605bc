"""Everything that a scene plays on: network, appliance, server, clients, observer. Whatever happens it ends with the
stack: processes by their number, the substitute, folders.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Literal

from demo import hypervisor
from demo.narrator import Narrator
from demo.observer import Observer
from lab import LOGS, REST, ROOT, SCENARIO, WORK, disks, ledger, setting, substitute
from lab.disks import ServerDisks
from lab.ledger import Attempt
from lab.places import BITS, DNS, ETCD, EVERY_SECONDS, HOST, MASTER, Places, wait_for
from lab.process import Process
from lab.rest import Rest
from lab.seed import seed
from lab.setting import Guard
from rha.errors import RhaError, StateError, StorageError
from rha.units import show_bytes, show_seconds
from vmlab.disk import Disk
from vmlab.machine import Machine
from vmlab.site import Master, Site

RESERVE_MIB = 256  # of the appliance's disk; below half of it nothing is received
WORK_BYTES, MEMORY_BYTES = 6 << 30, 8 << 30  # a scene's files at most; free memory from which they lie in it
CLIENT_SECONDS = 60.0
CONSISTENT_SECONDS = 120.0
AWAKE_SECONDS, QUICK_SECONDS = 180.0, 1.0
FIRST_COMMITS = 20
PAUSE_SECONDS = 5.0  # the longest a client may wait between two commits while nothing is wrong with the master
Where = Literal["west", "east"]


class Stage:
    """`name`: of the scene; its logs stay in build/lab-logs/NAME."""

    def __init__(
        self, name: str, narrator: Narrator, stack: ExitStack, *, guard: Guard = "fence", store_bytes: int = 0
    ) -> None:
        """Builds all of it; server and appliance are off. `store_bytes`: the store is a file system of that size; 0: it
        lies on this host's. Raises RhaError."""
        self.narrator, self._stack, self.guard = narrator, stack, guard
        self.logs = LOGS / name
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self._sweep()
        stack.callback(self._sweep)
        self._make_work()
        stack.callback(self._keep_logs)
        self.rest = Rest(REST / guard)
        self.places = Places(stack, WORK, setting.service(guard))
        if guard == "lease":
            self.places.start_etcd()
        self.site = self._make_site(store_bytes)
        self.scenario = setting.scenario(self.site.port, self.places.key, guard, ETCD, disks.CARD)
        self.disks = ServerDisks.of(WORK)
        self.machine = self._make_machine()
        self.master = Master(self.machine, SCENARIO)
        self.observer = Observer(self.site.run_dir, SCENARIO)
        stack.callback(self.observer.stop)
        self.attempts_of: dict[str, Path] = {}
        self._clients: dict[str, Process] = {}
        self.ahead_seconds = 0.0  # this host's clock minus the server's, at least

    def cleanup(self, act: Callable[[], object]) -> None:
        """To be done when the scene ends, however it does."""
        self._stack.callback(act)

    def _sweep(self) -> None:
        """Domains and files of this run, or of one that was killed."""
        hypervisor.remove_domains(WORK)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if Path(place := line.split()[1]).is_relative_to(WORK):
                disks.run("umount", "--lazy", place)
        if WORK.exists():
            shutil.rmtree(WORK)

    def _make_work(self) -> None:
        """In memory where there is enough: copies of disks would keep a slow disk busy for a minute of each scene."""
        WORK.mkdir(mode=0o755)
        if _free_memory() > MEMORY_BYTES:
            disks.run("mount", "-t", "tmpfs", "-o", f"mode=755,size={WORK_BYTES}", "lab", str(WORK))

    def _mount_store(self, place: Path, size: int) -> None:
        file, store = WORK / "store.ext4", str(place)
        with file.open("xb") as handle:
            handle.truncate(size)
        disks.run("mkfs.ext4", "-q", "-m", "0", str(file))
        disks.run("mount", "-o", "loop", str(file), store)
        self._stack.callback(disks.run, "umount", "--lazy", store)

    def _keep_logs(self) -> None:
        kept = [*WORK.glob("*.log"), *WORK.glob("*.console"), *WORK.glob("*.qemu"), *WORK.glob("*.jsonl")]
        kept += [*WORK.glob("store/*/*.log"), *WORK.glob("store/*/failover.json"), *WORK.glob("named/log")]
        kept += WORK.glob("store/*/switches.jsonl")
        for path in kept:
            with contextlib.suppress(OSError):
                shutil.copy(path, self.logs / path.name)

    def _make_site(self, store_bytes: int) -> Site:
        """The appliance, with what rests in its store."""
        if self.rest.exists:
            self.rest.lay_out(WORK)
        more = f'scripts = "{WORK}/scripts"\nreserve = "{RESERVE_MIB}MiB"\n'
        port = self.rest.port if self.rest.exists else 0
        site = self._stack.enter_context(Site(WORK, listen=HOST, port=port, more=more))
        if store_bytes:
            self._mount_store(site.store, store_bytes)
        if self.rest.exists:
            self.rest.fill(site.store)
        return site

    def _make_machine(self) -> Machine:
        """The server, off; its disks are made unless they were at rest."""
        card = self.places.west.card()
        if not self.rest.exists:
            disks.make(WORK, self.files(), card.mac, f"{MASTER}/{BITS}")
        setting.write_fence(WORK / "scripts", self.disks.system)
        data, system = [Disk("data", self.disks.data)], self.disks.system
        machine = Machine("server", WORK, disks=data, cards=[card], memory_mib=1024, cpus=2, system=system)
        self._stack.callback(machine.close)
        return machine

    def files(self) -> dict[str, bytes]:
        """What an administrator puts on the server, by path below its root."""
        pair = self.site.certificate(SCENARIO)
        return {
            f"etc/rha/{SCENARIO}.toml": self.scenario.encode(),
            "etc/rha/pki/ca.pem": self.site.ca.read_bytes(),
            "etc/rha/pki/master.pem": pair.certificate.read_bytes(),
            "etc/rha/pki/master.key": pair.key.read_bytes(),
        }

    def protected(self) -> None:
        """The server runs in write order, with a client on its side. The first one of a run is put to rest first, and
        woken like all others. Raises RhaError."""
        if not self.rest.exists:
            self._boot()
            self._put_to_rest()
        begun = time.monotonic()
        self.machine.wake(self.rest.memory)
        # The appliance starts when the master is itself again: else it finds it dead, and acts.
        wait_for("the server's database", AWAKE_SECONDS, self._is_awake)
        self.site.start()
        before = time.time()
        self.ahead_seconds = before - float(self.machine.run("date", "+%s.%N"))
        self.master.wait_ordered()
        wait_for("a consistent point", CONSISTENT_SECONDS, self._is_consistent)
        self.narrator.say(f"a protected server goes on in {show_seconds(time.monotonic() - begun)}, in write order")
        self.client("west")

    def _is_awake(self) -> bool:
        """The master answers quickly, three times in a row."""
        for _ in range(3):
            begun = time.monotonic()
            if not substitute.serves(setting.service(self.guard)) or time.monotonic() - begun > QUICK_SECONDS:
                return False
        return True

    def _boot(self) -> None:
        """Until every disk is in write order. The disks have travelled before."""
        self.site.start()
        begun = time.monotonic()
        seed(self.disks, self.scenario, WORK, self.site.run_dir)
        took, stored = show_seconds(time.monotonic() - begun), self._stored()
        self.narrator.say(f"its disks went to the appliance by a medium in {took}: {stored}")
        self.narrator.say(f"the server has booted in {show_seconds(self.machine.start())}")
        begun = time.monotonic()
        self.master.wait_ordered()
        wait_for("the first consistent point", CONSISTENT_SECONDS, self._is_consistent)
        self.narrator.say(f"in write order {show_seconds(time.monotonic() - begun)} later")

    def _put_to_rest(self) -> None:
        begun = time.monotonic()
        self.machine.rest(self.rest.begin())
        self.site.stop()
        self.rest.keep(WORK, self.site.port)
        self.narrator.say(f"it was put to rest in {show_seconds(time.monotonic() - begun)}; every scene begins there")

    def _is_consistent(self) -> bool:
        report = self.observer.appliance
        return report is not None and report.connected and report.consistent is not None

    def _stored(self) -> str:
        return show_bytes(sum(path.stat().st_blocks * 512 for path in self.site.store.rglob("*") if path.is_file()))

    def client(self, name: str, where: Where = "west") -> None:
        """Starts a client and waits for its first commits. Raises RhaError."""
        place = self.places.west if where == "west" else self.places.east
        file = self.attempts_of[name] = WORK / f"client-{name}.jsonl"
        words = [sys.executable, "-m", "lab.client", name, str(file), DNS]
        client = Process(words, WORK / f"client-{name}.log", place=place.prefix, folder=ROOT)
        self._clients[name] = client
        self._stack.callback(client.stop)
        wait_for(
            f"the first commits of client {name}",
            CLIENT_SECONDS,
            lambda: len(self.acknowledged(name)) >= FIRST_COMMITS,
            client.check,
        )

    def attempts(self, name: str) -> list[Attempt]:
        return ledger.read(self.attempts_of[name])

    def acknowledged(self, name: str, address: str = "") -> list[Attempt]:
        """What a client has from anybody, or from one address."""
        every = self.attempts(name)
        return [one for one in every if one.acked is not None and address in ("", one.address)]

    def last_acknowledged(self, name: str) -> int:
        """Number of a client's last commit."""
        return self.acknowledged(name)[-1].id

    def last_address(self, name: str) -> str:
        """Who has acknowledged a client's last commit."""
        return self.acknowledged(name)[-1].address

    def longest_pause(self, name: str, after: int) -> float:
        """Seconds between two commits of a client that came after the one with a number."""
        times = [one.acked for one in self.acknowledged(name) if one.id >= after and one.acked is not None]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def serve(self, seconds: float) -> None:
        """What is waited for is time: the clients commit."""
        time.sleep(seconds)
        for client in self._clients.values():
            client.check()

    def fill_store(self, filler: Path, left: int) -> None:
        """A file that leaves `left` bytes on the store's file system. Raises StorageError."""
        size = shutil.disk_usage(self.site.store).free - left
        done = subprocess.run(["fallocate", "-l", str(size), str(filler)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise StorageError("the store cannot be filled", cause=done.stderr.strip())

    def stop_clients(self) -> None:
        for client in self._clients.values():
            client.stop()

    def wait(self, what: str, seconds: float, is_so: Callable[[], object], every: float = EVERY_SECONDS) -> float:
        """Waits, with a line now and then; the time at which it was so. Raises StateError when time is up."""

        def look() -> None:
            self.narrator.progress(self.appliance_says())
            for client in self._clients.values():
                client.check()

        try:
            wait_for(what, seconds, is_so, look, every)
        except RhaError as error:
            raise StateError(error.what, cause=self.appliance_says(), hint=f"see {self.logs}") from error
        return time.time()

    def appliance_says(self) -> str:
        report = self.observer.appliance
        alarms = "; ".join(report.alarms) if report else ""
        return f"appliance: {report.state}, {report.why} {alarms}" if report else "the appliance has not answered yet"


def _free_memory() -> int:
    """Bytes that programs may have without anybody being moved out (proc(5), MemAvailable)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
