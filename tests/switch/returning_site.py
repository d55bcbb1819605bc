"""A scenario that has failed over, on a real appliance process and a real libvirt: what a switchback begins from."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from demo.product import Daemon, reports, rha
from proof.proxy import Proxy
from rha.appliance.config import Config
from rha.appliance.replica import Replica
from rha.control import local
from rha.report import Report
from rha.scenario import Scenario, to_plain
from rha.scenario_check import load
from rha.vm.base import domain_name
from rha.vm.libvirt import LibvirtHost
from rha.wire import frames
from rha.wire.frames import FrameType
from rha.wire.messages import PROTOCOL, DiskHello, End, Hello, Mark
from tests.appliance.one_replica import Master
from tests.switch.test_substitute import free_port
from tests.switch.writing_guest import BEGUN, PAGE_BYTES, boot_sector, expected, writes_of

MIB = 1 << 20
WAIT_SECONDS = 400.0  # a busy disk takes its time for what QEMU holds


def wait_for(is_so: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def digest(path: str | Path) -> str:
    """SHA-256 of a file or device, read by another program."""
    return subprocess.check_output(["sha256sum", str(path)], text=True).split()[0]


class Site:
    """`disk`: boots and writes for ever; `data`: random bytes that nobody writes. The replica was filled by a made-up
    stream; the master's new disks are loop devices. Everything ends with `stack`."""

    def __init__(
        self,
        store: Path,
        libvirt: LibvirtHost,
        stack: ExitStack,
        *,
        disk_bytes: int = 64 * MIB,
        burst: int = 8,
        read_limit: str = "unlimited",
        redirect: str = "",
    ) -> None:
        """`redirect`: tables of the scenario."""
        self.store, self.libvirt, self.stack, self.burst = store, libvirt, stack, burst
        self.name = f"back-{os.getpid()}"
        self.domain, self.folder = domain_name(self.name), store / "store" / self.name
        self.sizes, self.run_dir = {"disk": disk_bytes, "data": 8 * MIB}, store / "run"
        self.port = free_port()
        store.chmod(0o711)  # QEMU's user passes through
        self._certify()
        self.proxy = stack.enter_context(Proxy(self.port))
        self.scenario_file = self._write_scenario(read_limit, redirect)
        self._config_file = self._write_config()
        self._fill(burst)
        stack.callback(self._end)
        self.appliance = self.start_appliance()
        self.targets = {name: self.loop(size) for name, size in self.sizes.items()}

    def _certify(self) -> None:
        pki = str(self.store / "pki")
        rha("pki", "init", pki, "--name", "Test")
        rha("pki", "issue", "appliance", "a", "--dir", pki, "--address", "127.0.0.1")
        rha("pki", "issue", "master", self.name, "--dir", pki)

    def _files(self, who: str) -> str:
        pki = self.store / "pki"
        return f'ca = "{pki}/ca.pem"\ncertificate = "{pki}/{who}.pem"\nkey = "{pki}/{who}.key"\n'

    def _write_scenario(self, read_limit: str, redirect: str) -> Path:
        disks = "".join(f'[[disk]]\nname = "{name}"\ndevice = "/dev/none-{name}"\n' for name in self.sizes)
        link = f'[appliance]\naddress = "127.0.0.1:{self.proxy.port}"\n' + self._files(f"master-{self.name}")
        vm = '[vm]\nmemory = "64MiB"\naccelerator = "tcg"\n[switch]\nlimit = "60s"\n'
        sync = f'[sync]\nread_limit = "{read_limit}"\n'
        path = self.store / "scenario.toml"
        path.write_text(f'name = "{self.name}"\nmode = "dr"\n{disks}{link}{sync}{vm}{redirect}')
        return path

    def _write_config(self) -> Path:
        path = self.store / "appliance.toml"
        path.write_text(
            f'listen = "127.0.0.1:{self.port}"\nstore = "{self.store}/store"\nrun_dir = "{self.run_dir}"\n'
            f'reserve = "64MiB"\n{self._files("appliance-a")}'
        )
        return path

    def _fill(self, burst: int) -> None:
        (self.store / "store").mkdir(mode=0o700)
        config = Config(store=str(self.store / "store"), ca="/x", certificate="/x", key="/x", reserve=64 * MIB)
        replica = Replica(self.folder, config)
        fill(
            replica, load(self.scenario_file), [boot_sector(self.sizes["disk"], burst), os.urandom(8 * MIB)], self.sizes
        )
        replica.close()

    def _end(self) -> None:
        self.libvirt.destroy(self.domain)
        self.libvirt.undefine(self.domain)

    # The appliance --------------------------------------------------------------------------------------------

    def start_appliance(self) -> Daemon:
        log = self.store / f"appliance-{time.monotonic_ns()}.log"
        daemon = Daemon("appliance", ["--config", str(self._config_file)], self.run_dir, log)
        self.stack.callback(daemon.stop)
        wait_for(lambda: daemon.check() or local.answers(self.socket), "the appliance")
        self.log = log
        return daemon

    @property
    def socket(self) -> Path:
        return self.run_dir / "appliance.sock"

    def kill_appliance(self) -> None:
        """`kill -9`, and a new one."""
        self.appliance.kill()
        self.appliance.stop()
        self.appliance = self.start_appliance()

    def rha(self, *words: str) -> str:
        return rha(*words, run_dir=self.run_dir, seconds=WAIT_SECONDS)

    def report(self) -> Report:
        found = reports(self.socket, 30)
        assert found, "the appliance does not answer"
        return found[0]

    def fail_over(self) -> None:
        """The substitute boots and writes."""
        self.rha("failover", self.name, "--yes")
        wait_for(lambda: BEGUN in self.libvirt.console(self.domain), "the guest")

    # The master -----------------------------------------------------------------------------------------------

    def cut_line(self) -> None:
        """Resets the connection between receiver and appliance."""
        self.proxy.cut(reset=True)

    def loop(self, size: int) -> str:
        """A block device full of random bytes."""
        file = self.store / f"loop-{time.monotonic_ns()}"
        file.write_bytes(os.urandom(size))
        device = subprocess.check_output(["losetup", "--find", "--show", str(file)], text=True).strip()
        self.stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
        return device

    def receive(self) -> Daemon:
        """`rha receive`; returns when the appliance knows it."""
        log = self.store / f"receive-{time.monotonic_ns()}.log"
        disks = [word for name, device in self.targets.items() for word in ("--disk", f"{name}={device}")]
        words = ["--scenario", str(self.scenario_file), *disks, "--yes"]
        receiver = Daemon("receive", words, self.store / "master", log)
        self.stack.callback(receiver.stop)
        wait_for(lambda: receiver.check() or (self.report().back and self.report().back.receiver), "the receiver")
        return receiver

    def logs(self) -> str:
        """What all processes have said."""
        return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.store.glob("*.log")))

    def image_digests(self) -> list[str]:
        """What the replica shows, flattened by qemu-img and read by sha256sum; the appliance must be stopped."""
        return [self.flattened(self.folder / "images" / f"{name}.qcow2") for name in self.sizes]

    def flattened(self, image: Path) -> str:
        raw = self.store / f"flat-{time.monotonic_ns()}"
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", str(image), str(raw)], check=True)
        found = digest(raw)
        raw.unlink()
        return found

    def lost_writes(self) -> str:
        """What is wrong with the master's disk by the guest's own rule, which is known; empty: nothing. Whatever the
        guest has written, and nothing else, is there: it wrote one page after the other."""
        found = Path(self.targets["disk"]).read_bytes()
        writes = writes_of(found)
        assert writes > 50, f"the guest has hardly written: {writes} pages"
        wanted = expected(len(found), writes, self.burst)
        wrong = [
            at for at in range(0, len(found), PAGE_BYTES) if found[at : at + PAGE_BYTES] != wanted[at : at + PAGE_BYTES]
        ]
        return f"{len(wrong)} of {writes} pages are wrong, the first at {wrong[0]}" if wrong else ""

    def target_digests(self) -> list[str]:
        return [digest(device) for device in self.targets.values()]


def fill(replica: Replica, scenario: Scenario, contents: list[bytes], sizes: dict[str, int]) -> None:
    """A first sync of a made-up master: each disk's content, zeros behind it."""
    hello = Hello(
        protocol=PROTOCOL,
        version="test",
        scenario=to_plain(scenario),
        host="master",
        generation="a" * 32,
        first_lsn=8,
        disks=[DiskHello(name=name, bytes=size) for name, size in sizes.items()],
    )
    replica.welcome(hello, frames.control(FrameType.HELLO, hello, lsn=8), "appliance")
    master = Master(replica)
    master.lsn = 8
    disks = list(range(len(sizes)))
    master.control(FrameType.MARK, Mark(epoch=1, disks=disks, method="full"))
    for disk, content in enumerate(contents):
        master.data(FrameType.RESYNC, content, disk=disk)
    master.control(FrameType.END, End(epoch=1, disks=disks, lsn=master.lsn))
    master.settle()
