"""The lease for real: etcd, a master in a network namespace, SIGSTOP, kill, and an etcd that is away."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rha.errors import NetworkError, StateError
from rha.fence import taking, terms
from rha.fence.base import FencePlace
from rha.fence.etcd import Access
from rha.fence.taking import Means
from rha.scenario import Appliance, Duration, Lease, Scenario
from tests.fence.etcd_server import Server
from tests.fence.master import Master
from tests.redirect.wires import Host, Segment, eventually

pytestmark = pytest.mark.root
ADDRESS, V6, UNIT = "10.9.0.5/24", "2001:db8::5/64", "stubborn.service"
TTL, STOP = 6.0, 1.5
SERVES = terms.serving_seconds(TTL, STOP)


@pytest.fixture
def ttl() -> float:
    return TTL


@pytest.fixture
def scenario(etcd: Server, ttl: float) -> Scenario:
    lease = Lease(
        endpoints=[etcd.url], addresses=[ADDRESS, V6], interface="eth0", units=[UNIT], ttl=Duration(ttl),
        stop_limit=Duration(STOP),
    )  # fmt: skip
    ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
    return Scenario(name="web", disk=[], appliance=ends, lease=lease)


@pytest.fixture
def means(tmp_path: Path) -> Means:
    return Means(FencePlace("web", tmp_path), taking.appliance_name(tmp_path), Access(()))


@pytest.fixture
def master(tmp_path: Path, segment: Segment, etcd: Server, ttl: float) -> Iterator[Master]:
    """It serves. etcd is on the tests' loopback: the holder asks it through a forward into the namespace."""
    host = segment.host("10.9.0.1/24")
    forward = Forward(host, etcd.url)
    lease = {
        "endpoints": [forward.url], "addresses": [ADDRESS, V6], "interface": "eth0", "units": [UNIT],
        "ttl": ttl, "stop_limit": STOP,
    }  # fmt: skip
    master = Master(tmp_path / "master", host, lease)
    master.start()
    eventually(lambda: master.state() == "serving", 20)
    yield master
    master.close()
    forward.close()


class Forward:
    """A TCP forward from a namespace's loopback to ours."""

    def __init__(self, host: Host, url: str) -> None:
        self._to = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listener = host.call(lambda: socket.create_server(("127.0.0.1", 0)))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.is_cut = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer, socket.create_connection(self._to) as server:
            back = threading.Thread(target=self._copy, args=(server, peer), daemon=True)
            back.start()
            self._copy(peer, server)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


class Looker(threading.Thread):
    """When the master was last seen serving, by address and by unit."""

    def __init__(self, master: Master) -> None:
        super().__init__(daemon=True)
        self._master, self._ended = master, threading.Event()
        self.address_at = self.unit_at = 0.0
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            now = time.monotonic()
            if self._master.has(ADDRESS) or self._master.has(V6):
                self.address_at = now
            if self._master.runs(UNIT):
                self.unit_at = now

    def end(self) -> None:
        self._ended.set()
        self.join()


def took(scenario: Scenario, means: Means) -> float:
    """Takes the lease; when that was."""
    taking.cut_off(scenario, means, lambda _: None)
    return time.monotonic()


def test_it_serves_while_it_holds(master: Master) -> None:
    assert master.has(ADDRESS)
    assert master.has(V6)
    assert master.runs(UNIT)
    time.sleep(TTL + 1)  # renewed many times meanwhile
    assert master.has(ADDRESS)
    assert master.runs(UNIT)
    assert master.state() == "serving"


def test_a_living_master_keeps_it(master: Master, scenario: Scenario, means: Means) -> None:
    with pytest.raises(StateError, match="may still serve") as error:
        taking.cut_off(scenario, means, lambda _: None)
    assert "it is alive, and it serves" in error.value.cause
    assert master.state() == "serving"


@pytest.mark.parametrize("what", ["engine-stopped", "engine-killed", "both-stopped"])
def test_it_has_stopped_before_another_takes_it(what: str, master: Master, scenario: Scenario, means: Means) -> None:
    looker = Looker(master)
    master.signal(signal.SIGKILL if what == "engine-killed" else signal.SIGSTOP)
    if what == "both-stopped":  # then nobody ends the unit, but the kernel the addresses
        master.signal(signal.SIGSTOP, sentry=True)
    taken = took(scenario, means)
    looker.end()
    assert 0 < looker.address_at < taken
    if what != "both-stopped":
        assert 0 < looker.unit_at < taken
    master.signal(signal.SIGCONT)
    if what == "both-stopped":
        master.signal(signal.SIGCONT, sentry=True)
    eventually(lambda: not master.runs(UNIT), STOP + 2)
    assert not master.has(ADDRESS)


@pytest.mark.parametrize("ttl", [15.0])  # a busy machine takes seconds to start an engine
def test_an_engine_started_again_in_time_interrupts_nothing(master: Master, ttl: float) -> None:
    sentry = master.sentry()
    master.engine.kill()
    master.engine.wait()
    master.start()
    end = time.monotonic() + ttl + 1
    while time.monotonic() < end:
        assert master.has(ADDRESS)
        assert master.runs(UNIT)
        time.sleep(0.02)
    assert master.sentry() == sentry


def test_a_killed_sentry_is_replaced(master: Master) -> None:
    before = master.sentry()
    master.signal(signal.SIGKILL, sentry=True)
    eventually(lambda: master.sentry() != before)
    assert master.state() == "serving"
    assert master.has(ADDRESS)


def test_etcd_away_ends_serving_and_nobody_can_take(
    master: Master, scenario: Scenario, means: Means, etcd: Server
) -> None:
    etcd.pause()
    begun = time.monotonic()
    eventually(lambda: master.state() == "ended", TTL + STOP)
    assert time.monotonic() - begun < TTL
    assert not master.has(ADDRESS)
    assert not master.runs(UNIT)
    with pytest.raises(StateError, match="may still serve") as error:
        taking.cut_off(scenario, means, lambda _: None)
    assert "etcd does not answer" in error.value.cause
    etcd.resume()
    eventually(lambda: master.state() == "serving", 10)
    assert master.has(ADDRESS)


def test_after_the_appliance_took_it_the_master_waits_until_it_is_released(
    master: Master, scenario: Scenario, means: Means, etcd: Server
) -> None:
    held = etcd.client().read(taking.key_of("web"))
    assert held is not None
    assert held.value.startswith("master ")
    said = taking.take(etcd.client(), scenario, means.me, is_off=True)  # as if a fence had succeeded, and was wrong
    assert said.startswith("the lease of web is taken")
    eventually(lambda: master.state() == "ended", 5)
    assert not master.has(ADDRESS)
    assert taking.take(etcd.client(), scenario, means.me, is_off=False) == "the lease of web is this appliance's"
    time.sleep(TTL)
    assert master.state() == "ended"
    assert taking.release(scenario, means) == "the lease of web is given back: the master may serve"
    eventually(lambda: master.state() == "serving", 10)


def test_another_appliances_lease_is_left_alone(etcd: Server, scenario: Scenario, means: Means) -> None:
    taking.take(etcd.client(), scenario, "appliance other:/var/lib/rha", is_off=False)
    with pytest.raises(StateError, match="appliance other:/var/lib/rha holds the lease of web"):
        taking.take(etcd.client(), scenario, means.me, is_off=True)
    assert "is not this appliance's" in taking.release(scenario, means)


def test_no_etcd_at_all(etcd: Server, scenario: Scenario, means: Means) -> None:
    etcd.kill()
    with pytest.raises(NetworkError, match="etcd does not answer"):
        taking.release(scenario, means)
