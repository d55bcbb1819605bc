"""An observer as a daemon, asked over TLS with real certificates."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from demo.setting import free_ports
from rha import pki
from rha.errors import ConfigError
from rha.scenario import Appliance, Check, Duration, Observer, Scenario
from rha.watch import observe
from rha.watch.observers import vote_of, voter
from rha.watch.votes import Opinion, Vote
from rha.watch.watcher import Watcher
from rha.wire import tls


class Hosts:
    """A CA, an appliance, an observer that listens, and a service of a master that may be switched off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = pki.init(folder, "test").certificate
        self.appliance = pki.issue_appliance(folder, "backup", ["127.0.0.1"])
        third = pki.issue_appliance(folder, "third", ["127.0.0.1"])
        self.port = free_ports(1)[0]
        config = observe.Config(
            listen=f"127.0.0.1:{self.port}", ca=str(self.ca), certificate=str(third.certificate), key=str(third.key)
        )
        self.daemon = observe.Observer(config)
        self.thread = threading.Thread(target=self.daemon.listen, daemon=True)
        self.thread.start()
        self.service = socket.create_server(("127.0.0.1", 0))
        self.check = Check(
            kind="tcp", address=f"127.0.0.1:{self.service.getsockname()[1]}", attempts=2, interval=Duration(0.01)
        )

    def vote(self, *checks: Check, port: int = 0, pair: pki.Pair | None = None) -> Vote:
        who = pair or self.appliance
        observer = Observer(name="third", address=f"127.0.0.1:{port or self.port}", timeout=Duration(2))
        return vote_of(observer, "web", checks or [self.check], tls.client_context(self.ca, who.certificate, who.key))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path_factory.mktemp("pki"))
    until = time.monotonic() + 10
    while hosts.vote().opinion is Opinion.UNKNOWN:
        assert time.monotonic() < until
    yield hosts
    hosts.daemon.stop()
    hosts.thread.join()
    hosts.service.close()


def test_it_sees_what_answers_and_what_does_not(hosts: Hosts) -> None:
    vote = hosts.vote()
    assert vote.opinion is Opinion.ALIVE
    assert vote.sentence().startswith(f"third: alive (tcp {hosts.check.address}: answered in ")
    gone = msgspec.structs.replace(hosts.check, address=f"127.0.0.1:{free_ports(1)[0]}")
    vote = hosts.vote(gone)
    assert vote.opinion is Opinion.DEAD
    assert "connection refused, 2 of 2 attempts" in vote.why
    assert hosts.vote(gone, hosts.check).opinion is Opinion.ALIVE


def test_one_that_is_away_does_not_know(hosts: Hosts) -> None:
    vote = hosts.vote(port=free_ports(1)[0])
    assert vote.opinion is Opinion.UNKNOWN
    assert vote.why.endswith("nobody listens there")


def test_a_master_may_not_ask(hosts: Hosts) -> None:
    pair = pki.issue_master(hosts.folder, "web")
    vote = hosts.vote(pair=pair)
    assert vote.opinion is Opinion.UNKNOWN


def test_what_it_does_not_answer(hosts: Hosts) -> None:
    unit = Check(kind="unit", address="nginx.service")
    assert hosts.vote(unit) == Vote("third", Opinion.UNKNOWN, "only the master itself can say how its units are")
    slow = msgspec.structs.replace(hosts.check, attempts=1000)
    assert (
        "more than 64 checks"
        in hosts.daemon.answer(
            msgspec.json.encode({"protocol": 1, "scenario": "web", "checks": [{**_plain(slow)}]})
        ).error
    )
    assert "cannot read" in hosts.daemon.answer(b"{").error
    assert "speaks protocol 1, not 2" in hosts.daemon.answer(b'{"protocol":2,"scenario":"w","checks":[]}').error


def _plain(check: Check) -> dict[str, object]:
    return {"kind": check.kind, "address": check.address, "attempts": check.attempts}


def test_certificates_that_cannot_be_read(hosts: Hosts) -> None:
    def context() -> object:
        raise ConfigError("/none cannot be read")

    ask = voter(context)  # type: ignore[arg-type]
    found = ask(Observer(name="third", address="127.0.0.1:1"), "web", [hosts.check])
    assert found == Vote("third", Opinion.UNKNOWN, "/none cannot be read")


def test_rounds_that_agree_are_counted_since_the_last_sign_of_life() -> None:
    gone = Check(kind="tcp", address=f"127.0.0.1:{free_ports(1)[0]}", attempts=1)
    ends = Appliance(address="a:1", ca="/a", certificate="/b", key="/c")
    scenario = Scenario(
        name="web", disk=[], appliance=ends, check=[gone, Check(kind="unit", address="a.service")],
        observer=[Observer(name="third", address="third:1")],
    )  # fmt: skip
    opinions = iter([Opinion.DEAD, Opinion.DEAD, Opinion.UNKNOWN, Opinion.DEAD])

    def vote(observer: Observer, _name: str, _checks: object) -> Vote:
        time.sleep(0.1)
        return Vote(observer.name, next(opinions), "")

    watcher = Watcher(vote)

    def ask(heard: float) -> int:
        before = watcher._last
        watcher.ask(scenario, heard)
        while watcher._last is before:
            time.sleep(0.01)
        found = watcher.round()
        assert found is not None
        assert 0.1 <= found.took <= found.age
        assert (len(found.results), len(found.votes)) == (1, 1)
        return found.same

    begun = time.monotonic()
    assert ask(begun) == 1
    assert ask(begun) == 2
    assert ask(begun) == 1, "the observer no longer agrees"
    assert ask(time.monotonic()) == 1, "the master was heard in between"
