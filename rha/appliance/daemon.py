"""The appliance: listens for masters, one connection a scenario, and answers questions about what it keeps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType as StackFrame
from typing import Any

import msgspec

from rha.appliance import memory
from rha.appliance.config import Config, load
from rha.appliance.fencing import means_of
from rha.appliance.importer import Importer
from rha.appliance.receive import Connection
from rha.appliance.replica import Replica
from rha.appliance.returners import Returners
from rha.appliance.split_verbs import SplitVerbs
from rha.appliance.standby import Standby
from rha.appliance.switch_verbs import SwitchVerbs
from rha.appliance.tester import Tester
from rha.appliance.testverbs import TestVerbs
from rha.appliance.verbs import PointVerbs
from rha.appliance.warden import Warden
from rha.control import local
from rha.errors import ConfigError, Exit, RhaError, StateError, StorageError
from rha.journal.keys import read_keyring
from rha.report import Report
from rha.scenario import Scenario
from rha.switch.failover import are_images_taken
from rha.vm.libvirt import LibvirtHost
from rha.watch import observers
from rha.wire import tls
from rha.wire.frames import FrameType, decode_control
from rha.wire.identity import Identity
from rha.wire.messages import Hello, Offer

HANDSHAKE_SECONDS = 10.0
HELLO_SECONDS = 30.0  # from the handshake to the end of the greeting, however slowly it comes
MOST_GREETERS = 128  # connections that have not shown yet what they want
SILENT_SECONDS = 30.0
RELEASE_SECONDS, RELEASE_LOOKS = 10.0, 100
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Appliance:
    """All scenarios of one store. Raises StorageError when the store is in use or damaged, ConfigError when a key is
    missing."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = Path(config.store)
        self._lock = threading.RLock()
        self._wardens: dict[str, Warden] = {}
        self._testers: dict[str, Tester] = {}
        self._test_slots = threading.Semaphore(config.tests_at_once)
        self.returners = Returners()
        self._connections: dict[str, Connection] = {}
        self._broken: dict[str, RhaError] = {}
        self._stopping = False
        self._greeters = threading.BoundedSemaphore(MOST_GREETERS)
        read_keyring(config.journal_key, config.journal_old_keys)  # what is wrong with them is said at once
        self._context = tls.server_context(Path(config.ca), Path(config.certificate), Path(config.key))
        self._lock_file = _take_store(self._store)
        self._standby = Standby(LibvirtHost(), self._store, self._scenarios)
        for folder in sorted(self._store.iterdir()):
            if folder.is_dir() and _NAME.fullmatch(folder.name):
                self._open_known(folder.name)

    def _open_known(self, name: str) -> None:
        """A scenario that is in the store already. A damaged one is named, and the others go on."""
        try:
            self._open(name)
        except RhaError as error:
            self._broken[name] = error
            print(f"rha appliance: scenario {name}: {str(error).replace(chr(10), '; ')}", file=sys.stderr, flush=True)

    def _open(self, name: str) -> Warden:
        """The scenario, opened at its first use. Raises StorageError when it is damaged."""
        with self._lock:
            if name not in self._wardens:
                folder = self._store / name
                replica = Replica(folder, self._config, retired=are_images_taken(folder))
                means = means_of(self._config, name)
                warden = self._wardens[name] = Warden(
                    replica,
                    self._store,
                    LibvirtHost(),
                    self._hang_up,
                    means,
                    observers.voter(self._client_context),
                    partial(self.order, name),
                )
                self._broken.pop(name, None)
                tester = self._testers[name] = Tester(
                    replica, self._store, LibvirtHost(), self._test_slots, Path(self._config.scripts)
                )
                self.returners.add(replica, LibvirtHost(), means)
                warden.start()
                tester.start()
            return self._wardens[name]

    def _client_context(self) -> ssl.SSLContext:
        """As whom observers are asked."""
        return tls.client_context(*map(Path, (self._config.ca, self._config.certificate, self._config.key)))

    def _scenarios(self) -> list[Scenario]:
        """Of all masters that were ever connected."""
        with self._lock:
            replicas = [warden.replica for warden in self._wardens.values()]
        return [scenario for replica in replicas if (scenario := replica.scenario)]

    def serve(self, listener: socket.socket) -> None:
        """Accepts masters until `stop`."""
        listener.settimeout(0.5)
        self._standby.start()
        while not self._stopping:
            try:
                raw, address = listener.accept()
            except TimeoutError:
                continue
            if self._greeters.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(raw, address), name="accept", daemon=True).start()
            else:
                raw.close()  # an engine tries again

    def stop(self) -> None:
        """Ends `serve` soon."""
        self._stopping = True

    # Connections ----------------------------------------------------------------------------------------------

    def _serve(self, raw: socket.socket, address: Any) -> None:
        """One connection, in its own thread. What goes wrong concerns this connection only; it is said once."""
        peer = f"{address[0]}:{address[1]}"
        greeting = contextlib.ExitStack()
        greeting.callback(self._greeters.release)
        try:
            with greeting:
                sock, identity = tls.accept(raw, self._context, HANDSHAKE_SECONDS)
                with sock:
                    sock.settimeout(SILENT_SECONDS)
                    greeting.enter_context(_limited(sock))
                    connection = Connection(sock, peer)
                    first = connection.read_first()
                    if first[0].type is FrameType.OFFER:
                        offer = decode_control(*first, Offer)
                        greeting.close()
                        self.returners.serve(sock, offer, identity, peer)
                    else:
                        self._serve_master(connection, identity, peer, greeting)
        except (RhaError, OSError) as error:
            print(f"rha appliance: {peer}: {str(error).replace(chr(10), '; ')}", file=sys.stderr, flush=True)

    def _serve_master(
        self, connection: Connection, identity: Identity, peer: str, greeting: contextlib.ExitStack
    ) -> None:
        """`greeting` is closed when the master has said who it is."""
        replica: Replica | None = None

        def replica_for(hello: Hello) -> Replica:
            nonlocal replica
            name = str(hello.scenario.get("name"))
            tls.require_master(identity, name)
            greeting.close()
            replica = self._claim(name, connection, hello, peer)
            return replica

        try:
            connection.greet(replica_for)
            assert replica is not None
            replica.is_connected, replica.peer = True, peer
            with tls.explain(f"the connection of {peer} failed"):
                connection.serve(replica)
        finally:
            if replica is not None:
                self._release(replica, connection)

    def _claim(self, name: str, connection: Connection, hello: Hello, peer: str) -> Replica:
        """The scenario for this connection alone: a master that connects again takes over from its own dead
        connection."""
        with self._lock:
            previous = self._connections.get(name)
        if previous:
            previous.stop()
            self._wait_released(name, previous)
        warden = self._open(name)
        # Without the lock: the substitute's disks are asked.
        if refusal := self.returners.why_not_receive(name) or warden.why_not_receive(hello, peer):
            raise refusal
        with self._lock:
            warden = self._open(name)
            if refusal := self.returners.why_not_receive(name) or warden.why_not_receive():
                raise refusal
            if name in self._connections:
                raise StateError(
                    f"{name} is connected already", cause="another connection was faster", hint="rha status"
                )
            self._connections[name] = connection
            return warden.replica

    def _wait_released(self, name: str, previous: Connection) -> None:
        """Raises StateError when it does not end: at once when its disk is known not to answer."""
        for _ in range(RELEASE_LOOKS):
            with self._lock:
                if self._connections.get(name) is not previous:
                    return
            stuck = previous.replica.why_stuck() if previous.replica else None
            if stuck:
                raise StateError(f"{name} cannot be received now", cause=stuck, hint="dmesg; df -h on the appliance")
            threading.Event().wait(RELEASE_SECONDS / RELEASE_LOOKS)
        raise StateError(f"{name} is connected already", cause="its old connection does not end", hint="rha status")

    def _release(self, replica: Replica, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(replica.name) is connection:
                del self._connections[replica.name]
                replica.is_connected = False

    def _hang_up(self, name: str) -> None:
        """Ends the connection of a scenario, if there is one. Raises StateError when it does not end."""
        with self._lock:
            connection = self._connections.get(name)
        if connection:
            connection.stop()
            self._wait_released(name, connection)

    def order(self, scenario: str, verb: str, limit: float | None = 60.0, **arguments: Any) -> Any:
        """Has the connected engine of a scenario do something (rha.wire.orders): the value of its handler.

        Raises StateError when the master is not connected or takes no such order, NetworkError when the link ends
        before the answer, and the engine's refusal.
        """
        with self._lock:
            connection = self._connections.get(scenario)
        if connection is None:
            raise StateError(f"the master of {scenario} is not connected", hint="rha status")
        return connection.ask(verb, limit, **arguments)

    # Questions ------------------------------------------------------------------------------------------------

    def status(self) -> list[Report]:
        """One report per scenario; one that cannot be opened says why."""
        with self._lock:
            sides = [(warden, self._testers[name]) for name, warden in sorted(self._wardens.items())]
            broken = sorted(self._broken.items())
        ready = self._standby.add_to
        return [ready(tester.add_to(self.returners.fill(warden.report()))) for warden, tester in sides] + [
            _broken_report(name, why) for name, why in broken
        ]

    def replica(self, scenario: str) -> Replica:
        """Raises StateError when the scenario is not here."""
        return self.warden(scenario).replica

    def tester(self, scenario: str) -> Tester:
        """Raises StateError when the scenario is not here."""
        return self._testers[self.warden(scenario).replica.name]

    def replace(self, scenario: str, act: Callable[[], None]) -> None:
        """Closes a scenario, if it is here, for `act` to change its folder, and opens what is there then. No master is
        served meanwhile. Raises StateError, StorageError."""
        self._hang_up(scenario)
        with self._lock:
            if scenario in self._connections:
                raise StateError(f"{scenario} is connected", cause="its master came back at once", hint="try again")
            warden = self._wardens.pop(scenario, None)
            if warden:
                self._testers.pop(scenario).stop()
                self.returners.drop(scenario)
                warden.stop()
                warden.replica.close()
            try:
                act()
            finally:
                self._open_known(scenario)

    def warden(self, scenario: str) -> Warden:
        """Raises StateError when the scenario is not here."""
        with self._lock:
            if scenario not in self._wardens:
                known = ", ".join(sorted(self._wardens)) or "none"
                raise StateError(
                    f"no scenario {scenario!r} here", cause=f"this appliance has: {known}", hint="rha status"
                )
            return self._wardens[scenario]

    def close(self) -> None:
        """Ends connections, closes all replicas. Raises StorageError for the first that could not be closed well."""
        with self._lock:
            names, wardens = list(self._connections), list(self._wardens.values())
            testers = list(self._testers.values())
        self.returners.stop()
        self._standby.stop()
        for name in names:
            self._hang_up(name)
        failures = []
        for tester in testers:
            tester.stop()
        for warden in wardens:
            warden.stop()
            try:
                warden.replica.close()
            except RhaError as error:
                failures.append(error)
        os.close(self._lock_file)
        if failures:
            raise failures[0]


@contextlib.contextmanager
def _limited(sock: ssl.SSLSocket) -> Iterator[None]:
    """Hangs up when the block takes too long: a peer that sends a byte now and then is never silent."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(HELLO_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _broken_report(name: str, why: RhaError) -> Report:
    sentence = str(why).replace("\n", "; ")
    return Report(
        role="appliance",
        scenario=name,
        mode="unknown",
        time=time.time(),
        health="alarm",
        state="failed",
        why=sentence,
        disks=[],
        alarms=[sentence],
    )


def _take_store(store: Path) -> int:
    """Locks the store for this process. Raises StorageError."""
    try:
        store.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"store {store} cannot be used", cause=str(error), hint=f"ls -ld {store}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StorageError(
            "two appliances on one store", cause=f"{store} is locked by another process", hint=f"fuser -v {store}"
        ) from error
    return lock


def run(config_path: Path) -> int:
    """The daemon: runs until SIGTERM or SIGINT.

    Raises RhaError when it cannot start.
    """
    config = load(config_path)
    memory.give_back()
    appliance = Appliance(config)

    def on_signal(number: int, frame: StackFrame | None) -> None:
        appliance.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    handlers: dict[str, local.Handler] = {
        "status": lambda: msgspec.to_builtins(appliance.status()),
        **appliance.returners.guarded(SwitchVerbs(appliance.warden).handlers()),
        **appliance.returners.handlers(),
        **SplitVerbs(appliance.warden).handlers(),
        **PointVerbs(appliance.replica, appliance.order).handlers(),
        **TestVerbs(appliance.tester).handlers(),
        **Importer(config, appliance.replace).handlers(),
    }
    try:
        # Who is answered at the control socket may count on it that masters are, too.
        with tls.listen(config.listen) as listener, local.serve(Path(config.run_dir) / "appliance.sock", handlers):
            print(f"rha appliance: listening on {config.listen}, store {config.store}", flush=True)
            appliance.serve(listener)
    finally:
        appliance.close()
    return int(Exit.OK)
