"""A Ceph cluster of one monitor and one OSD, in memory, on loopback, with cephx; everything in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rados
import rbd

POOL, USER = "vms", "rha"
START_SECONDS = 120
STOP_SECONDS = 30
_CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]
mon_initial_members = a
public_addr = 127.0.0.1
keyring = {folder}/$name.keyring
run_dir = {folder}
admin_socket = {folder}/$name-$pid.asok
log_file = {folder}/$name.log
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_client_watch_timeout = 5
"""


class Cluster:
    """A running cluster. `conf`: its ceph.conf, which leads every client to its keyring."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.conf = folder, folder / "ceph.conf"
        ports = [_free_port() for _ in range(2)]
        self.conf.write_text(_CONF.format(fsid=uuid.uuid4(), folder=folder, ports=ports))
        self._make_monitor(ports)
        self.monitor = self._start(stack, "ceph-mon", "a")
        self.admin = rados.Rados(conffile=str(self.conf), conf={"client_mount_timeout": str(START_SECONDS)})
        self.admin.connect()
        stack.callback(self.admin.shutdown)
        self._make_osd()
        self.osd = self._start(stack, "ceph-osd", "0")
        self._make_pool()

    def _run(self, *words: str | Path) -> None:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"

    def _make_monitor(self, ports: list[int]) -> None:
        keys, admin = self.folder / "mon.keyring", self.folder / "client.admin.keyring"
        every = [word for kind in ("mon", "osd", "mds", "mgr") for word in ("--cap", kind, "allow *")]
        self._run("ceph-authtool", "--create-keyring", keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *every)
        self._run("ceph-authtool", keys, "--import-keyring", admin)
        monmap, fsid = self.folder / "monmap", self.conf.read_text().split("fsid = ")[1].split("\n")[0]
        place = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
        self._run("monmaptool", "--create", "--addv", "a", place, "--fsid", fsid, monmap)
        words = ["--monmap", monmap, "--keyring", keys]
        self._run("ceph-mon", "--conf", self.conf, "--mkfs", "--id", "a", *words)

    def _make_osd(self) -> None:
        osd = str(uuid.uuid4())
        self.command("osd new", uuid=osd)
        caps = ["mon", "allow profile osd", "osd", "allow *"]
        self._keyring("osd.0", caps)
        (self.folder / "osd").mkdir()
        self._run("ceph-osd", "--conf", self.conf, "--mkfs", "--id", "0", "--osd-uuid", osd)

    def _make_pool(self) -> None:
        self.command("osd pool create", pool=POOL, pg_num=8)
        with self.ioctx() as ioctx:
            rbd.RBD().pool_init(ioctx, True)
        self._keyring(f"client.{USER}", ["mon", "profile rbd", "osd", f"profile rbd pool={POOL}"])

    def _keyring(self, entity: str, caps: list[str]) -> None:
        text = self.command("auth get-or-create", entity=entity, caps=caps, format="plain")
        (self.folder / f"{entity}.keyring").write_text(text)

    def _start(self, stack: ExitStack, program: str, number: str) -> subprocess.Popen[bytes]:
        # With us, however we end: a cluster that nobody asks any more would run for ever.
        words = ["setpriv", "--pdeathsig", "KILL", program, "--conf", str(self.conf), "--id", number, "--foreground"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(_end, process)
        return process

    def command(self, prefix: str, **words: Any) -> str:
        """One command to the monitor; what it says."""
        asked = json.dumps({"prefix": prefix, **words})
        status, said, error = self.admin.mon_command(asked, b"", timeout=START_SECONDS)
        assert status == 0, f"{prefix}: {error}"
        return str(said.decode())

    @contextlib.contextmanager
    def ioctx(self, pool: str = POOL) -> Iterator[Any]:
        with self.admin.open_ioctx(pool) as ioctx:
            yield ioctx

    @contextlib.contextmanager
    def image(self, name: str, *, read_only: bool = False) -> Iterator[Any]:
        with self.ioctx() as ioctx, rbd.Image(ioctx, name, read_only=read_only) as image:
            yield image

    def create(self, name: str, size: int, content: bytes = b"", *, features: int | None = None) -> None:
        """`features`: by default those of Ceph's own tool."""
        with self.ioctx() as ioctx:
            rbd.RBD().create(ioctx, name, size, features=features)
        if content:
            with self.image(name) as image:
                image.write(content, 0)

    def read(self, name: str) -> bytes:
        """What an image holds, by librbd itself."""
        with self.image(name, read_only=True) as image:
            return bytes(image.read(0, image.size()))

    def images(self) -> list[str]:
        with self.ioctx() as ioctx:
            return sorted(rbd.RBD().list(ioctx))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The OSD answers nothing meanwhile."""
        self.osd.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.osd.send_signal(signal.SIGCONT)

    def watchers(self, name: str) -> list[str]:
        with self.image(name, read_only=True) as image:
            return [one["addr"] for one in image.watchers_list()]

    def remove(self, name: str) -> None:
        """Once nobody has it open any more: a watch of a killed process lasts half a minute."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with self.ioctx() as ioctx:
                    return rbd.RBD().remove(ioctx, name)
            except rbd.ImageBusy:
                assert time.monotonic() < until
                time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A new cluster; nothing is left of it."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=f"rha-ceph-{os.getpid()}-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder)
        yield Cluster(folder, stack)
