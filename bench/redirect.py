"""How long a client is without the service while its address moves, beside keepalived (VRRP) on the same segment,
and how long a DNS name takes until it is rewritten and verified.

Everything in network namespaces: a master, a replica, a client that opens a new connection every 5 ms and reads from
which of the two it came. The move is a planned one on both sides, so that nobody's detection of a loss is measured:
keepalived's master is told to stop (its last word is priority 0, and the backup waits its skew time), rha's gives the
address up.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import figures as f
from rha.redirect.base import Act, Memory, Place
from rha.redirect.dns import Dns
from rha.redirect.ip import move_ip
from rha.scenario import MoveIp, RewriteDns
from tests.redirect.named import Named
from tests.redirect.wires import Host, Segment, eventually

ROUNDS = 7
MOVED, PORT = "192.0.2.10", 7000
LOOP_SECONDS, TRY_SECONDS, GIVE_UP_SECONDS = 0.005, 0.05, 20.0
MASTER, REPLICA = b"m", b"r"
_VRRP = """\
global_defs {{ vrrp_version 3
  vrrp_garp_master_delay 0 }}
vrrp_instance bench {{ state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{ {moved}/24 }} }}
"""

Row = dict[str, object]


class World:
    """Master, replica and client. `seen`: from whom the client's last connection was answered, and when."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        segment = Segment()
        stack.callback(segment.close)
        self.folder = folder
        self.master, self.replica = segment.host("192.0.2.1/24"), segment.host("192.0.2.2/24")
        client = segment.host("192.0.2.3/24")
        for host, letter in ((self.master, MASTER), (self.replica, REPLICA)):
            stack.enter_context(_serving(host, letter))
        self.first: dict[bytes, float] = {}
        self.last: dict[bytes, float] = {}
        ended = threading.Event()
        loop = threading.Thread(target=lambda: client.call(lambda: self._ask(ended)))
        loop.start()
        stack.callback(loop.join)
        stack.callback(ended.set)

    def _ask(self, ended: threading.Event) -> None:
        while not ended.wait(LOOP_SECONDS):
            with contextlib.suppress(OSError), socket.create_connection((MOVED, PORT), TRY_SECONDS) as connection:
                letter, now = connection.recv(1), time.monotonic()
                self.first.setdefault(letter, now)
                self.last[letter] = now

    def outage(self, move: Callable[[], object]) -> float:
        """Seconds from the last answer of the master to the first of the replica."""
        self.first.pop(REPLICA, None)
        eventually(lambda: time.monotonic() - self.last.get(MASTER, 0) < 4 * LOOP_SECONDS, GIVE_UP_SECONDS)
        move()
        eventually(lambda: REPLICA in self.first, GIVE_UP_SECONDS)
        return self.first[REPLICA] - self.last[MASTER]


@contextlib.contextmanager
def _serving(host: Host, letter: bytes) -> Iterator[None]:
    listener = host.call(lambda: socket.create_server(("0.0.0.0", PORT), backlog=64))

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                with listener.accept()[0] as connection:
                    connection.send(letter)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def measure() -> list[Row]:
    """Medians with spread, in seconds; rha and keepalived in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rha-bench-")))
        world = World(stack, folder)
        ways: dict[str, Callable[[World], float]] = {
            "rha": _by_rha,
            "keepalived, advert_int 1 (its default)": lambda world: _by_keepalived(world, 1),
            "keepalived, advert_int 0.1": lambda world: _by_keepalived(world, 0.1),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                found[name].append(way(world))
        dns = stack.enter_context(_named(folder))
        rewritten = [_rewritten(dns, folder) for _ in range(ROUNDS)]
    moved = [
        {"name": f"address moved by {name}", "load": f.load(), "client_without_seconds": f.spread(seconds, 3)}
        for name, seconds in found.items()
    ]
    return [*moved, {"name": "DNS name rewritten and verified (BIND)", "seconds": f.spread(rewritten, 3)}]


def _by_rha(world: World) -> float:
    def act(host: Host, side: str, what: Act) -> None:
        place = Place(scenario="bench", side=side, memory=world.folder / side)  # type: ignore[arg-type]
        table = MoveIp(addresses=[f"{MOVED}/24"], interface="eth0")
        host.call(lambda: move_ip(table, place, Memory(place.memory / "0-ip.json")).do(what))

    def move() -> None:
        act(world.master, "master", Act.APPLY)
        act(world.replica, "replica", Act.APPLY)

    world.master.ip("address", "add", f"{MOVED}/24", "dev", "eth0")
    try:
        return world.outage(move)
    finally:
        act(world.replica, "replica", Act.REVERT)
        world.master.ip("address", "flush", "to", f"{MOVED}/32", "dev", "eth0")


def _by_keepalived(world: World, advert: float) -> float:
    with ExitStack() as stack:
        master = stack.enter_context(_keepalived(world.master, world.folder / "keep-m", 200, advert))
        eventually(lambda: f"{MOVED}/24" in world.master.addresses(), GIVE_UP_SECONDS)
        stack.enter_context(_keepalived(world.replica, world.folder / "keep-r", 100, advert))
        time.sleep(3 * advert + 0.5)  # until the backup has heard its master
        return world.outage(master.terminate)


@contextlib.contextmanager
def _keepalived(host: Host, folder: Path, priority: int, advert: float) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    config = folder / "keepalived.conf"
    config.write_text(_VRRP.format(priority=priority, advert=advert, moved=MOVED))
    files = ["-f", str(config), "-p", str(folder / "pid"), "-r", str(folder / "vrrp.pid")]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*host.prefix, "keepalived", "-n", "-l", "-P", *files], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(GIVE_UP_SECONDS)
        eventually(lambda: f"{MOVED}/24" not in host.addresses(), GIVE_UP_SECONDS)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[Named]:
    server = Named(folder / "named")
    server.start()
    yield server
    server.stop()


def _rewritten(server: Named, folder: Path) -> float:
    table = RewriteDns(
        servers=[server.address], zone="example.org", name="www", key=str(server.key),
        master=["192.0.2.10", "2001:db8::10"], replica=["192.0.2.20"],
    )  # fmt: skip
    place = Place(scenario="bench", side="replica", memory=folder / "dns")
    dns = Dns(table, place, Memory(place.memory / "0-dns.json"))
    begin = time.monotonic()
    dns.do(Act.APPLY)
    dns.do(Act.VERIFY)
    seconds = time.monotonic() - begin
    dns.do(Act.REVERT)
    return seconds
