"""Each refusal by a real handshake on loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rha import pki
from rha.errors import ConfigError, NetworkError
from rha.wire import tls
from rha.wire.address import parse_address

TIMEOUT = 5.0


class Authority:
    """A CA in a directory and certificates of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        pki.init(directory, "Example")
        self.ca = directory / "ca.pem"

    def appliance(self, *addresses: str, name: str = "backup", days: int = 30) -> pki.Pair:
        return pki.issue_appliance(self.directory, name, addresses or ["127.0.0.1"], days=days)

    def master(self, scenario: str = "web1", days: int = 30) -> pki.Pair:
        return pki.issue_master(self.directory, scenario, days=days)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other")


class Server:
    """Accepts one connection; `outcome` is the client's identity or the error that the server saw."""

    def __init__(self, context: ssl.SSLContext, listener: socket.socket) -> None:
        self.context, self.listener, self.outcome = context, listener, None
        self.port = listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    outcome: Any

    def _serve(self) -> None:
        raw, _ = self.listener.accept()
        try:
            secure, self.outcome = tls.accept(raw, self.context, TIMEOUT)
            with secure:
                secure.sendall(b"welcome")
        except NetworkError as error:
            self.outcome = error

    def seen(self) -> Any:
        self.thread.join(TIMEOUT)
        return self.outcome


@contextlib.contextmanager
def serving(authority: Authority, pair: pki.Pair, host: str = "127.0.0.1") -> Iterator[Server]:
    with tls.listen(tls.Address(host, 0)) as listener:
        server = Server(tls.server_context(authority.ca, pair.certificate, pair.key), listener)
        yield server
        server.thread.join(TIMEOUT)
        assert not server.thread.is_alive()


def client(authority: Authority, pair: pki.Pair) -> ssl.SSLContext:
    return tls.client_context(authority.ca, pair.certificate, pair.key)


def talk(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    with tls.connect(tls.Address(host, port), context, TIMEOUT) as secure, tls.explain("the appliance refused"):
        return secure.recv(100)


def test_both_sides_know_each_other(authority: Authority) -> None:
    with serving(authority, authority.appliance()) as server:
        context = client(authority, authority.master())
        with tls.connect(f"127.0.0.1:{server.port}", context, TIMEOUT) as secure:
            assert tls.peer_identity(secure).role == "appliance"
            assert secure.version() == "TLSv1.3"
            assert secure.recv(100) == b"welcome"
    identity = server.seen()
    assert (identity.role, identity.scenario, identity.subject) == ("master", "web1", "commonName=master-web1")


def test_ipv6_and_host_names(authority: Authority) -> None:
    pair = authority.appliance("::1", "localhost")
    context = client(authority, authority.master())
    for host in ("::1", "localhost"):
        with serving(authority, pair, "::1" if host == "::1" else "127.0.0.1") as server:
            assert talk(server.port, context, host) == b"welcome"


def test_socket_is_tuned(authority: Authority) -> None:
    with serving(authority, authority.appliance()) as server:
        with tls.connect(tls.Address("127.0.0.1", server.port), client(authority, authority.master()), 3.0) as secure:
            assert secure.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert secure.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert secure.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
            assert secure.gettimeout() == 3.0


def test_no_session_ticket_is_sent(authority: Authority) -> None:
    with serving(authority, authority.appliance()) as server:
        with tls.connect(
            tls.Address("127.0.0.1", server.port), client(authority, authority.master()), TIMEOUT
        ) as secure:
            secure.recv(100)
            assert secure.session is None or not secure.session.has_ticket


def test_server_of_another_ca(authority: Authority, other: Authority) -> None:
    with serving(other, other.appliance()) as server, pytest.raises(NetworkError) as refused:
        talk(server.port, client(authority, authority.master()))
    assert refused.value.cause == "the certificate is of another CA"
    assert refused.value.hint == "both sides need the same ca.pem"


def test_server_with_another_address(authority: Authority) -> None:
    with serving(authority, authority.appliance("192.0.2.7")) as server, pytest.raises(NetworkError) as refused:
        talk(server.port, client(authority, authority.master()))
    assert "IP address mismatch" in refused.value.cause
    assert "--address" in refused.value.hint


def test_server_expired(authority: Authority) -> None:
    with serving(authority, authority.appliance(days=-1)) as server, pytest.raises(NetworkError) as refused:
        talk(server.port, client(authority, authority.master()))
    assert refused.value.cause == "the certificate has expired"


def test_master_cannot_pose_as_appliance(authority: Authority) -> None:
    with serving(authority, authority.master("web2")) as server, pytest.raises(NetworkError) as refused:
        talk(server.port, client(authority, authority.master()))
    assert refused.value.cause == "the certificate is of the other role"


def refused_client(authority: Authority, context: ssl.SSLContext) -> tuple[NetworkError, NetworkError]:
    """What client and server say when the server refuses the client."""
    with serving(authority, authority.appliance()) as server, pytest.raises(NetworkError) as refused:
        talk(server.port, context)
    seen = server.seen()
    assert isinstance(seen, NetworkError)
    return refused.value, seen


def test_client_of_another_ca(authority: Authority, other: Authority) -> None:
    pair = other.master()
    context = tls.client_context(authority.ca, pair.certificate, pair.key)
    for error in refused_client(authority, context):
        assert error.cause == "the certificate is of another CA"


def test_client_expired(authority: Authority) -> None:
    for error in refused_client(authority, client(authority, authority.master(days=-1))):
        assert error.cause == "the certificate has expired"
        assert error.hint


def test_refusal_reaches_a_client_that_has_already_sent(authority: Authority) -> None:
    context = client(authority, authority.master(days=-1))
    with serving(authority, authority.appliance()) as server:
        with tls.connect(tls.Address("127.0.0.1", server.port), context, TIMEOUT) as secure:
            select.select([secure], [], [], TIMEOUT)  # the alert is there; who sends first has not read it yet
            for _ in range(50):
                secure.sendall(bytes(2000))
            with pytest.raises(NetworkError) as refused, tls.explain("the appliance refused"):
                secure.recv(100)
    assert refused.value.cause == "the certificate has expired"


def test_appliance_cannot_pose_as_master(authority: Authority) -> None:
    """Its certificate is good for a client too (it asks observers), so the role decides, after the handshake."""
    context = client(authority, authority.appliance(name="second"))
    with serving(authority, authority.appliance()) as server:
        tls.connect(tls.Address("127.0.0.1", server.port), context, TIMEOUT).close()
        seen = server.seen()
    assert isinstance(seen, NetworkError)
    assert seen.what == "the client is no master"
    assert "is appliance" in seen.cause


def test_client_without_certificate(authority: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca)
    for error in refused_client(authority, context):
        assert error.cause == "no client certificate was shown"


def test_client_that_speaks_tls_1_2(authority: Authority) -> None:
    context = client(authority, authority.master())
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    for error in refused_client(authority, context):
        assert error.cause == "the other side does not speak TLS 1.3"


def test_client_that_speaks_no_tls(authority: Authority) -> None:
    with serving(authority, authority.appliance()) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            server.seen()
    assert server.outcome.cause == "what came is not TLS"


def test_client_that_says_nothing_is_dropped(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_tls.TIMEOUT", 0.3)
    with serving(authority, authority.appliance()) as server, socket.create_connection(("127.0.0.1", server.port)):
        server.thread.join(5)
    assert server.outcome.cause == "no answer in time"


def test_another_scenario(authority: Authority) -> None:
    with serving(authority, authority.appliance()) as server:
        talk(server.port, client(authority, authority.master("web2")))
    identity = server.seen()
    tls.require_master(identity, "web2")
    with pytest.raises(NetworkError) as refused:
        tls.require_master(identity, "web1")
    assert refused.value.what == "the certificate is not for scenario 'web1'"
    assert "scenario 'web2'" in refused.value.cause


def test_certificate_that_expires_during_the_connection() -> None:
    certificate = {"subjectAltName": (("URI", "urn:rha:master:web1"),), "notAfter": "Jan  1 00:00:00 2030 GMT"}
    end = 1893456000.0
    assert tls.identity_of(certificate, end).not_after == end
    with pytest.raises(NetworkError, match="expired"):
        tls.identity_of(certificate, end + 1)


@pytest.mark.parametrize(
    "uris", [(), ("urn:rha:master:",), ("urn:rha:appliance", "urn:rha:master:web1"), ("urn:other",)], ids=str
)
def test_certificate_without_one_clear_role(uris: tuple[str, ...]) -> None:
    names = tuple(("URI", uri) for uri in uris)
    with pytest.raises(NetworkError, match="names no role"):
        tls.identity_of({"subjectAltName": names, "notAfter": "Jan  1 00:00:00 2030 GMT"}, 0)


def test_key_of_another_certificate(authority: Authority) -> None:
    master, appliance = authority.master(), authority.appliance()
    with pytest.raises(NetworkError, match="is not the key of"):
        tls.client_context(authority.ca, master.certificate, appliance.key)


def test_files_that_are_no_certificates(authority: Authority, tmp_path: Path) -> None:
    pair, junk = authority.master(), tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ConfigError, match="no CA certificate"):
        tls.client_context(junk, pair.certificate, pair.key)
    with pytest.raises(ConfigError, match="no certificate with its key"):
        tls.client_context(authority.ca, pair.certificate, junk)
    with pytest.raises(ConfigError, match="cannot be read"):
        tls.client_context(authority.ca, tmp_path / "none.pem", pair.key)


def test_encrypted_key_never_asks(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization as ser

    pair = authority.master()
    key = ser.load_pem_private_key(pair.key.read_bytes(), None)
    hidden = key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.BestAvailableEncryption(b"secret"))
    pair.key.write_bytes(hidden)
    with pytest.raises(ConfigError, match="no certificate with its key"):
        tls.client_context(authority.ca, pair.certificate, pair.key)


def test_port_taken() -> None:
    with tls.listen(tls.Address("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(NetworkError) as refused:
            tls.listen(f"127.0.0.1:{port}")
    assert refused.value.cause == "another program listens on this port"
    assert refused.value.hint == f"ss -ltnp 'sport = :{port}'"


def test_address_of_another_host() -> None:
    with pytest.raises(NetworkError) as refused:
        tls.listen("192.0.2.1:7420")
    assert "of this host" in refused.value.hint


def test_nobody_listens(authority: Authority) -> None:
    with tls.listen(tls.Address("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NetworkError) as refused:
        tls.connect(f"127.0.0.1:{port}", client(authority, authority.master()), TIMEOUT)
    assert refused.value.cause == "nobody listens there"


def test_unknown_host(authority: Authority) -> None:
    with pytest.raises(NetworkError) as refused:
        tls.connect("backup.invalid:7420", client(authority, authority.master()), TIMEOUT)
    assert "name is not known" in refused.value.cause


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("backup.example:7420", "backup.example", 7420), ("[::1]:1", "::1", 1), ("192.0.2.7:65535", "192.0.2.7", 65535)],
)
def test_address(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("backup", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("backup:", "'' is no port number"),
        ("backup:seven", "'seven' is no port number"),
        ("backup:70000", "port 70000 is not between 1 and 65535"),
        ("backup:0", "port 0 is not between 1 and 65535"),
        (":7420", "the host is missing"),
        ("::1:7420", "an IPv6 address needs brackets"),
        ("[backup]:7420", "'[backup]' is no IPv6 address"),
        ("1.2.3:7420", "'1.2.3' is no IP address"),
        ("back up:7420", "'back up' is no host name"),
    ],
)
def test_bad_address(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert refused.value.cause == why
