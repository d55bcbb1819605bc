"""DNS rewritten at a real BIND 9; `dig` and `nsupdate` are the judges."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rha.errors import ConfigError, Exit, NetworkError, RhaError, StateError
from rha.redirect.base import Act, Memory, Place
from rha.redirect.dns import Before, Dns
from rha.scenario import Duration, RewriteDns
from tests.redirect.named import POLICY, Named, free_port, write_key

WWW = "www.example.org"
MASTER, REPLICA = ["192.0.2.10", "2001:DB8::10"], ["192.0.2.20"]


@pytest.fixture
def redirect(tmp_path: Path, named: Named) -> Callable[..., Dns]:
    """`redirect(key=…)`: the name www of `named`, or whatever else is said."""

    def make(**words: object) -> Dns:
        table = {
            "servers": [named.address],
            "zone": "example.org",
            "name": "www",
            "master": MASTER,
            "replica": REPLICA,
            "key": str(named.key),
            "limit": Duration(8),
        }
        place = Place(scenario="web", side="replica", memory=tmp_path / "memory")
        return Dns(RewriteDns(**{**table, **words}), place, Memory(tmp_path / "memory" / "0-dns.json"))

    return make


def test_there_and_back(redirect: Callable[..., Dns], named: Named) -> None:
    dns = redirect()
    dns.do(Act.CHECK)
    said = dns.do(Act.APPLY)
    now = "was A 192.0.2.10, AAAA 2001:db8::10, is A 192.0.2.20, TTL 60 s"
    assert said == [f"{named.address}: www.example.org. {now}"]
    assert (named.dig(WWW), named.dig(WWW, "AAAA"), named.ttl(WWW)) == (["192.0.2.20"], [], 60)
    assert dns.do(Act.VERIFY) == [f"{named.address} answers www.example.org.: A 192.0.2.20, TTL 60 s"]
    dns.do(Act.REVERT)
    assert (named.dig(WWW), named.dig(WWW, "AAAA")) == (["192.0.2.10"], ["2001:db8::10"])
    assert (named.ttl(WWW), named.ttl(WWW, "AAAA")) == (300, 300), "the TTL is the master's again"
    with pytest.raises(StateError, match="does not show"):
        redirect(limit=Duration(0.5)).do(Act.VERIFY)


def test_check_changes_nothing(redirect: Callable[..., Dns], named: Named) -> None:
    serial = named.serial()
    assert redirect().do(Act.CHECK)[0].endswith("TTL 300 s; updates are accepted")
    assert named.serial() == serial


def test_each_act_twice(redirect: Callable[..., Dns], named: Named) -> None:
    redirect().do(Act.APPLY)
    serial = named.serial()
    assert "already" in redirect().do(Act.APPLY)[0]
    redirect().do(Act.CHECK)
    assert named.serial() == serial
    redirect().do(Act.REVERT)
    assert redirect().do(Act.REVERT) == ["www.example.org.: nothing was changed"]
    assert named.ttl(WWW) == 300


def test_cname(redirect: Callable[..., Dns], named: Named) -> None:
    dns = redirect(name="files.example.org.", master=[WWW], replica=["other.example.org"])
    dns.do(Act.CHECK)
    dns.do(Act.APPLY)
    assert named.dig("files.example.org", "CNAME") == ["other.example.org."]
    dns.do(Act.VERIFY)
    dns.do(Act.REVERT)
    assert named.dig("files.example.org", "CNAME") == ["www.example.org."]


@pytest.mark.parametrize("act", [Act.CHECK, Act.APPLY])
def test_a_strangers_record_is_left_alone(redirect: Callable[..., Dns], named: Named, act: Act) -> None:
    named.update("update delete www.example.org A", "update add www.example.org 77 A 203.0.113.9")
    with pytest.raises(StateError, match="neither the master's nor the substitute's") as refused:
        redirect().do(act)
    assert "it is A 203.0.113.9, AAAA 2001:db8::10" in refused.value.cause
    assert (named.dig(WWW), named.ttl(WWW)) == (["203.0.113.9"], 77)


def test_a_stranger_between_look_and_update(redirect: Callable[..., Dns], named: Named, monkeypatch) -> None:
    """The prerequisite, not our look, protects the record."""
    real = Dns._change

    def change(self, *words):
        named.update("update delete www.example.org A", "update add www.example.org 77 A 203.0.113.9")
        return real(self, *words)

    monkeypatch.setattr(Dns, "_change", change)
    with pytest.raises(StateError, match="somebody else has changed") as refused:
        redirect().do(Act.APPLY)
    assert "NXRRSET" in refused.value.cause
    assert named.dig(WWW) == ["203.0.113.9"]


def test_a_stranger_after_us_is_not_reverted(redirect: Callable[..., Dns], named: Named) -> None:
    redirect().do(Act.APPLY)
    named.update("update delete www.example.org A", "update add www.example.org 77 A 203.0.113.9")
    with pytest.raises(StateError, match="neither"):
        redirect().do(Act.REVERT)
    assert named.dig(WWW) == ["203.0.113.9"]


def test_wrong_secret(redirect: Callable[..., Dns], named: Named, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="does not accept our signature") as refused:
        redirect(key=str(write_key(tmp_path / "wrong.key"))).do(Act.CHECK)
    assert "BADSIG" in refused.value.cause
    assert named.dig(WWW) == ["192.0.2.10"]


def test_wrong_key_name(redirect: Callable[..., Dns], tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as refused:
        redirect(key=str(write_key(tmp_path / "unknown.key", "unknown"))).do(Act.CHECK)
    assert "BADKEY" in refused.value.cause


def test_clocks_that_differ(redirect: Callable[..., Dns], monkeypatch) -> None:
    real = time.time
    monkeypatch.setattr("dns.message.time.time", lambda: real() - 3600)
    with pytest.raises(NetworkError) as refused:
        redirect().do(Act.CHECK)
    assert "BADTIME" in refused.value.cause


def test_unsigned_is_refused(redirect: Callable[..., Dns]) -> None:
    with pytest.raises(NetworkError, match=r"refuses: www.example.org.") as refused:
        redirect(key="").do(Act.CHECK)
    assert refused.value.cause == "REFUSED"


def test_a_policy_refuses_before_anything_is_changed(
    new_named: Callable[..., Named], redirect: Callable[..., Dns]
) -> None:
    named = new_named(rights=POLICY)
    words = {"servers": [named.address], "key": str(named.key)}
    redirect(**words).do(Act.CHECK)
    with pytest.raises(NetworkError, match="refuses"):
        redirect(**words, name="other", master=["198.51.100.7"]).do(Act.CHECK)


def test_no_right_is_needed_to_records_that_are_not_there(
    redirect: Callable[..., Dns], new_named: Callable[..., Named]
) -> None:
    named = new_named(rights="update-policy { grant good name other.example.org. A; };")
    words = {"servers": [named.address], "key": str(named.key), "name": "other", "master": ["198.51.100.7"]}
    redirect(**words).do(Act.CHECK)
    redirect(**words).do(Act.APPLY)
    assert named.dig("other.example.org") == ["192.0.2.20"]
    redirect(**words).do(Act.REVERT)
    assert named.dig("other.example.org") == ["198.51.100.7"]


def test_no_such_zone(redirect: Callable[..., Dns]) -> None:
    with pytest.raises(NetworkError, match="does not answer for zone"):
        redirect(zone="example.net").do(Act.CHECK)


def test_server_down(redirect: Callable[..., Dns], named: Named) -> None:
    named.stop()
    with pytest.raises(NetworkError, match="cannot be reached") as refused:
        redirect().do(Act.CHECK)
    assert refused.value.hint == f"dig @127.0.0.1 -p {named.port} . SOA"


def test_a_silent_server_ends_with_the_limit(redirect: Callable[..., Dns]) -> None:
    port = free_port()
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", port))
        begun = time.monotonic()
        with pytest.raises(NetworkError, match="cannot be reached"):
            redirect(servers=[f"127.0.0.1:{port}"], limit=Duration(0.5)).do(Act.CHECK)
        assert time.monotonic() - begun < 3


def test_the_second_of_two_refuses_and_the_first_is_changed_back(
    redirect: Callable[..., Dns], named: Named, new_named: Callable[..., Named], tmp_path: Path
) -> None:
    second = new_named(rights="allow-update { none; };", key=named.key)
    with pytest.raises(NetworkError, match="refuses") as refused:
        redirect(servers=[named.address, second.address]).do(Act.APPLY)
    assert "is A 192.0.2.10, AAAA 2001:db8::10" in refused.value.cause
    assert (named.dig(WWW), named.ttl(WWW)) == (["192.0.2.10"], 300)
    assert second.dig(WWW) == ["192.0.2.10"]
    assert Memory(tmp_path / "memory" / "0-dns.json").load(Before) is None


def test_a_revert_that_fails_is_remembered(redirect: Callable[..., Dns], named: Named, tmp_path: Path) -> None:
    redirect().do(Act.APPLY)
    named.stop()
    with pytest.raises(NetworkError):
        redirect().do(Act.REVERT)
    named.start()
    redirect().do(Act.REVERT)
    assert (named.dig(WWW), named.ttl(WWW)) == (["192.0.2.10"], 300)


def test_a_secondary_that_never_follows(redirect: Callable[..., Dns], new_named: Callable[..., Named]) -> None:
    other = new_named()
    dns = redirect(secondaries=[other.address], limit=Duration(1))
    dns.do(Act.APPLY)
    with pytest.raises(StateError, match=f"{other.address} does not show"):
        dns.do(Act.VERIFY)
    other.update("update delete www.example.org AAAA", "update delete www.example.org A",
                 "update add www.example.org 5 A 192.0.2.20")  # fmt: skip
    dns.do(Act.VERIFY)


def test_an_update_without_an_answer_is_unknown_not_failed(redirect: Callable[..., Dns], named: Named) -> None:
    """A relay that passes questions on and swallows the update's answer."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as deaf, socket.socket(type=socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", port))

        def pass_on() -> None:
            while (packet := relay.recvfrom(4096))[0] != b"end":
                with socket.socket(type=socket.SOCK_DGRAM) as real:
                    real.sendto(packet[0], ("127.0.0.1", named.port))
                    relay.sendto(real.recv(4096), packet[1])

        thread = threading.Thread(target=pass_on)
        thread.start()
        with pytest.raises(RhaError) as unknown:
            redirect(servers=[f"127.0.0.1:{port}"], limit=Duration(1)).do(Act.CHECK)
        with socket.socket(type=socket.SOCK_DGRAM) as stop:
            stop.sendto(b"end", ("127.0.0.1", port))
        thread.join()
        deaf.close()
    assert unknown.value.code is Exit.UNKNOWN


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        ("", 0o600, "is no TSIG key"),
        ('key "a" { algorithm hmac-md5; secret "c2VjcmV0"; };', 0o600, "hmac-md5 is not used"),
        ('key "a" { algorithm hmac-sha256; secret "c2VjcmV0!"; };', 0o600, "is no TSIG key"),
        ('key "a" { algorithm hmac-sha256; secret "c2VjcmV0"; };', 0o644, "can be read by everybody"),
    ],
)
def test_keys_that_are_none(redirect: Callable[..., Dns], tmp_path: Path, content: str, mode: int, what: str) -> None:
    path = tmp_path / "bad.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=what) as refused:
        redirect(key=str(path)).do(Act.CHECK)
    assert "c2VjcmV0" not in str(refused.value)


def test_the_master_has_nothing_to_do(tmp_path: Path) -> None:
    place = Place(scenario="web", side="master", memory=tmp_path)
    table = RewriteDns(servers=["127.0.0.1:1"], zone="z", name="n", master=MASTER, replica=REPLICA)
    dns = Dns(table, place, Memory(tmp_path / "0.json"))
    for act in Act:
        assert "n.z" in dns.do(act)[0]
