"""The lab's network: one subnet over two switches with a cable between them, a name server, and an etcd where one is
wanted.

    west: the master, a client 10.77.0.5
    east: a client 10.77.0.6, name server and etcd 10.77.0.3; by a cable of its own this host, 10.77.0.1, with appliance
          and substitute
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lab.process import Process
from rha.errors import StateError
from vmlab.network import Segment

HOST, DNS, MASTER, WEST, EAST = (f"10.77.0.{number}" for number in (1, 3, 10, 5, 6))
SERVICE = "10.77.0.20"  # the master's, held by a lease
BITS = 24
ZONE, NAME = "lab.test", "db.lab.test"
ETCD = f"http://{DNS}:2379"
READY_SECONDS = 30.0
EVERY_SECONDS = 0.1

_ZONE_FILE = """\
$TTL 3600
@   SOA ns1 admin 1 3600 600 86400 300
@   NS  ns1
ns1 A   {dns}
db  5 A {service}
"""
_NAMED_CONF = """\
include "{folder}/lab.key";
options {{ directory "{folder}"; pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key";
  listen-on port 53 {{ {dns}; }}; listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; notify no;
  empty-zones-enable no; }};
controls {{ }};
zone "{zone}" {{ type primary; file "{folder}/zone"; update-policy {{ grant lab name {name}. A; }}; }};
"""


class Places:
    """The two switches and what stands at them. `split`: the cable between them; `host`: this host's."""

    def __init__(self, stack: ExitStack, folder: Path, service: str = MASTER) -> None:
        """`service`: what the name leads to at first. Everything ends with the stack. Raises HostError."""
        self._stack, self._folder = stack, folder
        self.west = stack.enter_context(Segment())
        self.east = stack.enter_context(Segment())
        for segment, addresses in ((self.west, [WEST]), (self.east, [EAST, DNS])):
            for address in addresses:
                segment.ip("address", "add", f"{address}/{BITS}", "dev", "br0")
        self.split = self.east.join(self.west)
        self.host = self.east.join_host(f"{HOST}/{BITS}")
        self.key = self._start_named(service)

    def _start_named(self, service: str) -> Path:
        """Returns the file of the key that may rewrite the name."""
        folder = self._folder / "named"
        folder.mkdir()
        key = folder / "lab.key"
        key.write_bytes(subprocess.run(["tsig-keygen", "lab"], check=True, capture_output=True).stdout)
        key.chmod(0o600)
        (folder / "zone").write_text(_ZONE_FILE.format(dns=DNS, service=service))
        (folder / "named.conf").write_text(_NAMED_CONF.format(folder=folder, dns=DNS, zone=ZONE, name=NAME))
        words = ["named", "-f", "-4", "-n", "1", "-c", "named.conf"]
        process = Process(words, folder / "log", place=self.east.prefix, folder=folder)
        self._stack.callback(process.stop)
        wait_for("the name server", READY_SECONDS, lambda: self.leads_to() == [service], process.check)
        return key

    def start_etcd(self) -> None:
        """One member, at the name server's place."""
        peer = f"http://{DNS}:2380"
        words = [
            *("etcd", "--data-dir", str(self._folder / "etcd"), "--log-level", "error", "--logger", "zap"),
            *("--listen-client-urls", ETCD, "--advertise-client-urls", ETCD),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ]
        process = Process(words, self._folder / "etcd.log", place=self.east.prefix)
        self._stack.callback(process.stop)
        wait_for("etcd", READY_SECONDS, _is_etcd_healthy, process.check)

    def leads_to(self) -> list[str]:
        """The name's addresses, asked by BIND's own tool; empty while nobody answers."""
        ask = ["dig", f"@{DNS}", "+short", "+time=1", "+tries=1", "+norecurse", NAME, "A"]
        said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
        return sorted(line for line in said.splitlines() if line and not line.startswith(";"))


def _is_etcd_healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{ETCD}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(
    what: str,
    seconds: float,
    is_so: Callable[[], object],
    look: Callable[[], object] = lambda: None,
    every: float = EVERY_SECONDS,
) -> None:
    """Asks every so many seconds. `look` is called between two questions, to raise what ends the wait.

    Raises StateError when it is not so in time.
    """
    until = time.monotonic() + seconds
    while not is_so():
        look()
        if time.monotonic() > until:
            raise StateError(f"{what} took more than {seconds:.0f} s")
        time.sleep(every)
