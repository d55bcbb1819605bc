"""Ping and TCP against real sockets on loopback."""

import os
import socket

import pytest

from rha.scenario import Check, Duration
from rha.watch import ping, tcp
from rha.watch.ask import ask, ask_all
from rha.watch.base import NoAnswer


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def check(kind: str, address: str, attempts: int = 3) -> Check:
    return Check(kind=kind, address=address, timeout=Duration(0.3), attempts=attempts, interval=Duration(0.01))


def test_tcp_answers(listener):
    result = ask(check("tcp", f"127.0.0.1:{listener}"))
    assert result.answered
    assert result.sentence().startswith(f"tcp 127.0.0.1:{listener}: answered in ")


def test_tcp_refused_uses_every_attempt(closed_port):
    result = ask(check("tcp", f"127.0.0.1:{closed_port}"))
    assert not result.answered
    assert f"tcp 127.0.0.1:{closed_port}: connection refused, 3 of 3 attempts in " in result.sentence()


def test_a_late_answer_counts():
    answers = iter([NoAnswer("busy"), 0.1])

    def attempt(address: str, timeout: float) -> float:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    result = ask(check("tcp", "x:1"), kinds={"tcp": attempt})
    assert result.answered
    assert "answered at attempt 2 of 3 in" in result.sentence()


@pytest.mark.parametrize("address", ["nonsense", ":80", "host:", "host:0", "host:65536", "host:x"])
def test_bad_addresses_are_no_answer(address):
    with pytest.raises(NoAnswer, match="is not host:port"):
        tcp.split_address(address)


def test_v6_address():
    assert tcp.split_address("[2001:db8::1]:443") == ("2001:db8::1", 443)


def test_all_in_their_order(listener, closed_port):
    results = ask_all([check("tcp", f"127.0.0.1:{closed_port}"), check("tcp", f"127.0.0.1:{listener}")])
    assert [result.answered for result in results] == [False, True]


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ping_loopback(address):
    if address == "::1" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 on this host")
    assert ping.attempt(address, 1.0) < 1.0


@pytest.mark.root
def test_ping_over_a_raw_socket(monkeypatch):
    raw = socket.socket

    def refuse_ping_sockets(family, kind, protocol):
        if kind == socket.SOCK_DGRAM:
            raise PermissionError
        return raw(family, kind, protocol)

    monkeypatch.setattr(ping.socket, "socket", refuse_ping_sockets)
    assert ping.attempt("127.0.0.1", 1.0) < 1.0


def test_own_request_is_no_reply():
    token = b"0123456789abcdef"
    request = ping.request(8, token)
    assert not ping.is_reply(request, family=socket.AF_INET, raw=False, token=token)
    assert ping.is_reply(ping.request(0, token), family=socket.AF_INET, raw=False, token=token)
    assert not ping.is_reply(ping.request(0, b"f" * 16), family=socket.AF_INET, raw=False, token=token)
    assert not ping.is_reply(b"", family=socket.AF_INET, raw=True, token=token)


def test_checksum_of_rfc_1071_verifies():
    assert ping.checksum(ping.request(8, b"0123456789abcdef")) == 0


def test_so_many_of_so_many():
    def asking(*answers: bool):
        given = iter(answers)

        def attempt(check: Check, timeout: float) -> float:
            if not next(given):
                raise NoAnswer("busy")
            return 0.1

        two_of_four = Check(kind="tcp", address="x:1", attempts=4, needed=2, interval=Duration(0.001))
        return ask(two_of_four, kinds={"tcp": attempt})

    assert asking(False, True, True).sentence().startswith("tcp x:1: answered at attempt 3 of 4 in ")
    assert asking(True, False, False, True).answered
    assert asking(False, False, False).sentence().startswith("tcp x:1: busy, 3 of 4 attempts in ")
