"""Addresses that move between hosts of one segment, in network namespaces; a client's neighbour cache is the judge."""

from __future__ import annotations

import ipaddress
import threading
import time
from pathlib import Path

import pytest

from rha.errors import HostError, NetworkError, StateError
from rha.redirect import ip as ip_module
from rha.redirect import links
from rha.redirect import segment as segment_module
from rha.redirect.base import Act, Memory, Place, Redirection
from rha.redirect.ip import move_ip
from rha.scenario import MoveIp
from tests.redirect.wires import Host, Segment, eventually

pytestmark = pytest.mark.root
V4, V6 = "192.0.2.10", "2001:db8::10"


class World:
    """Master, replica and a client that knows the master."""

    def __init__(self, segment: Segment, folder: Path) -> None:
        self.segment, self.folder = segment, folder
        self.master = segment.host("192.0.2.1/24", f"{V4}/24", "2001:db8::1/64", f"{V6}/64")
        self.replica = segment.host("192.0.2.2/24", "2001:db8::2/64")
        self.client = segment.host("192.0.2.3/24", "2001:db8::3/64")
        for address in (V4, V6):
            eventually(lambda address=address: self.client.reaches(address))

    def do(self, host: Host, act: Act) -> list[str]:
        return host.call(lambda: self.redirection(host).do(act))

    def redirection(self, host: Host, **words: object) -> Redirection:
        side = "master" if host is self.master else "replica"
        place = Place(scenario="web", side=side, memory=self.folder / side)
        table = {"addresses": [f"{V4}/24", f"{V6}/64"], "interface": "eth0", **words}
        return move_ip(MoveIp(**table), place, Memory(place.memory / "0-ip.json"))

    def known(self) -> set[str]:
        """MACs that the client has in its caches for the addresses."""
        return {self.client.neighbour(V4), self.client.neighbour(V6)}


@pytest.fixture
def world(segment: Segment, tmp_path: Path) -> World:
    return World(segment, tmp_path)


def test_the_client_sees_the_move_at_once(world: World) -> None:
    assert world.known() == {world.master.mac()}
    world.segment.unplug(world.master)
    world.do(world.replica, Act.CHECK)
    said = world.do(world.replica, Act.APPLY)
    assert said == [f"{V4}/24 is on eth0; announced to the segment", f"{V6}/64 is on eth0; announced to the segment"]
    eventually(lambda: world.known() == {world.replica.mac()})  # before the client has sent anything
    assert world.client.reaches(V4)
    assert world.client.reaches(V6)
    assert "nobody else answers" in world.do(world.replica, Act.VERIFY)[1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many probes were sent, each time that the segment was asked."""
    asked, owners = list[int](), segment_module.owners

    def counted(*words: object, probes: int = segment_module.PROBES) -> object:
        asked.append(probes)
        return owners(*words, probes=probes)

    monkeypatch.setattr(segment_module, "owners", counted)
    return asked


def test_what_was_found_free_a_moment_ago_is_not_asked_again(
    world: World, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients wait meanwhile. An older answer, or another's, is none."""
    world.segment.unplug(world.master)
    for fresh, probes in ((60.0, [3]), (0.0, [3, 2])):
        monkeypatch.setattr(ip_module, "FRESH_SECONDS", fresh)
        asked.clear()
        one = world.redirection(world.replica)
        world.replica.call(lambda one=one: [one.do(Act.CHECK), one.do(Act.APPLY)])
        assert asked == probes
        world.do(world.replica, Act.REVERT)
    monkeypatch.setattr(ip_module, "FRESH_SECONDS", 60.0)
    asked.clear()
    world.do(world.replica, Act.APPLY)
    assert asked == [2], "nobody has asked for it before"


@pytest.mark.parametrize(("fresh", "times"), [(60.0, 2), (0.0, 4)])
def test_a_master_asks_once_how_its_addresses_stand(
    world: World, asked: list[int], monkeypatch: pytest.MonkeyPatch, fresh: float, times: int
) -> None:
    """It has two; what comes of it is a sentence."""
    monkeypatch.setattr(ip_module, "FRESH_SECONDS", fresh)
    one = world.redirection(world.master)
    said = world.master.call(lambda: [*one.do(Act.CHECK), *one.do(Act.APPLY)])
    assert said == [
        f"{V4}/24 is on eth0",
        f"{V6}/64 is on eth0",
        f"{V4}/24 is on eth0; removed",
        f"{V6}/64 is on eth0; removed",
    ]
    assert len(asked) == times


@pytest.mark.parametrize("act", [Act.CHECK, Act.APPLY])
def test_an_address_in_use_is_refused_before_anything_is_changed(world: World, act: Act) -> None:
    before = world.replica.addresses()
    with pytest.raises(NetworkError, match="address in use on the segment of eth0") as refused:
        world.do(world.replica, act)
    assert f"{V4} is at MAC {world.master.mac()}" in refused.value.cause
    assert f"{V6} is at MAC {world.master.mac()}" in refused.value.cause
    assert world.replica.addresses() == before
    assert not (world.folder / "replica").exists()
    assert world.known() == {world.master.mac()}


@pytest.mark.parametrize("taken", [f"{V4}/24", f"{V6}/64"])
def test_one_of_two_in_use_is_enough(world: World, taken: str) -> None:
    world.segment.unplug(world.master)
    world.segment.host(taken)
    before = world.replica.addresses()
    with pytest.raises(NetworkError, match="in use") as refused:
        world.do(world.replica, Act.APPLY)
    assert refused.value.cause.startswith(f"{taken.partition('/')[0]} is at MAC")
    assert world.replica.addresses() == before


def test_there_and_back(world: World) -> None:
    before = world.replica.addresses(), world.master.addresses()
    world.do(world.master, Act.APPLY)
    assert world.master.addresses() == {"192.0.2.1/24", "2001:db8::1/64"}
    world.do(world.replica, Act.APPLY)
    world.do(world.replica, Act.APPLY)  # again
    with pytest.raises(NetworkError, match=r"still served by another host"):
        world.do(world.master, Act.REVERT)
    world.do(world.replica, Act.REVERT)
    assert world.do(world.replica, Act.REVERT)[0].endswith("nothing was changed")
    world.do(world.master, Act.REVERT)
    assert (world.replica.addresses(), world.master.addresses()) == before
    eventually(lambda: world.known() == {world.master.mac()})


def test_a_master_that_comes_back(world: World) -> None:
    """It has its addresses still: both sides say the conflict, the one gives way."""
    world.segment.unplug(world.master)
    world.do(world.replica, Act.APPLY)
    world.segment.plug(world.master)
    with pytest.raises(NetworkError, match="another host answers for it") as conflict:
        world.do(world.replica, Act.VERIFY)
    assert conflict.value.cause == f"MAC {world.master.mac()}"
    with pytest.raises(StateError, match="this master still has"):
        world.do(world.master, Act.VERIFY)
    said = world.do(world.master, Act.APPLY)
    mac = world.replica.mac()
    assert said[0] == f"{V4}/24 is on eth0, and conflicts: MAC {mac} answers for it, too; removed"
    assert said[1] == f"{V6}/64 is on eth0, and conflicts: MAC {mac} answers for it, too; removed"
    world.do(world.replica, Act.VERIFY)
    world.do(world.replica, Act.APPLY)
    eventually(lambda: world.known() == {mac})


def test_the_first_of_a_network_leaves_without_the_others(world: World) -> None:
    """The kernel would remove the secondary addresses of the network, and the default route, with their primary."""
    host = world.segment.host(f"{V4}/24", "192.0.2.4/24", "192.0.2.5/24")
    host.run("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=0", "net.ipv4.conf.all.promote_secondaries=0")
    host.ip("route", "add", "default", "via", "192.0.2.3", "src", "192.0.2.5")
    host.ip("route", "add", "198.51.100.0/24", "via", "192.0.2.3", "src", V4)
    world.segment.unplug(world.master)
    world.master = host
    world.do(host, Act.APPLY)
    assert host.addresses() == {"192.0.2.4/24", "192.0.2.5/24"}
    assert "default via 192.0.2.3 dev eth0 src 192.0.2.5" in host.ip("route")
    assert "198.51.100.0/24" not in host.ip("route"), "its source is gone"
    world.do(host, Act.REVERT)
    assert f"198.51.100.0/24 via 192.0.2.3 dev eth0 src {V4}" in host.ip("route")


def test_an_address_that_was_here_before_stays(world: World) -> None:
    world.segment.unplug(world.master)
    world.replica.ip("address", "add", f"{V4}/24", "dev", "eth0")
    assert world.do(world.replica, Act.CHECK)[0] == f"{V4}/24 is here already"
    world.do(world.replica, Act.APPLY)
    world.do(world.replica, Act.REVERT)
    assert world.replica.addresses() == {"192.0.2.2/24", f"{V4}/24", "2001:db8::2/64"}


def test_cut_off_after_the_memory_was_written(world: World, monkeypatch) -> None:
    """Killed between two addresses: revert leaves nothing behind."""

    class Cut(BaseException):
        pass

    real = links.add

    def add(card: str, address: links.IpInterface) -> None:
        if address.version == 6:
            raise Cut
        real(card, address)

    world.segment.unplug(world.master)
    before = world.replica.addresses()
    monkeypatch.setattr(links, "add", add)
    with pytest.raises(Cut):
        world.do(world.replica, Act.APPLY)
    monkeypatch.setattr(links, "add", real)
    assert f"{V4}/24" in world.replica.addresses()
    world.do(world.replica, Act.REVERT)
    assert world.replica.addresses() == before


def test_the_second_address_fails_and_the_first_is_taken_back(world: World) -> None:
    world.segment.unplug(world.master)
    world.replica.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    before = world.replica.addresses()
    with pytest.raises(NetworkError, match=rf"address {V6}/64 cannot be set on eth0"):
        world.do(world.replica, Act.APPLY)
    assert world.replica.addresses() == before


def test_cards_that_cannot(world: World) -> None:
    world.replica.ip("link", "add", "eth1", "type", "bridge")
    for name, what in (("eth7", "has no network card eth7"), ("lo", "no Ethernet"), ("eth1", "does not carry")):
        with pytest.raises((HostError, NetworkError), match=what):
            world.replica.call(lambda name=name: world.redirection(world.replica, interface=name).do(Act.CHECK))
    world.replica.ip("link", "set", "eth1", "up")
    world.replica.ip("address", "add", f"{V4}/24", "dev", "eth1")
    with pytest.raises(StateError, match=f"this host has {V4}/24 already"):
        world.do(world.replica, Act.CHECK)


def test_one_that_is_just_probing_for_it_counts_too(world: World, monkeypatch) -> None:
    """RFC 5227, 2.1.1 and RFC 4862, 5.4.3. We listen long: the other's next probe ends it."""
    world.segment.unplug(world.master)
    other, done = world.segment.host(), threading.Event()
    wanted = [ipaddress.ip_address(V4), ipaddress.ip_address(V6)]

    def probe() -> None:
        while not done.is_set():
            segment_module.owners(links.card("eth0"), wanted, probes=1)

    thread = threading.Thread(target=lambda: other.call(probe))
    thread.start()
    monkeypatch.setattr(segment_module, "PROBES", 50)
    try:
        with pytest.raises(NetworkError, match="in use") as refused:
            world.do(world.replica, Act.CHECK)
    finally:
        done.set()
        thread.join()
    assert refused.value.cause == f"{V4} is at MAC {other.mac()}; {V6} is at MAC {other.mac()}"


def test_the_limit_ends_an_act(world: World) -> None:
    world.segment.unplug(world.master)
    begun = time.monotonic()
    with pytest.raises(StateError, match="not done within"):
        world.replica.call(lambda: world.redirection(world.replica, limit=0.01).do(Act.CHECK))
    assert time.monotonic() - begun < 3
