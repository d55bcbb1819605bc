"""TLS between engine and appliance: version 1.3, certificates on both sides, no way around either.

In TLS 1.3 a client's handshake ends before the server has looked at the client's certificate: the server's refusal
arrives with the client's first read. `explain` makes a NetworkError of it there too.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rha.errors import ConfigError, HostError, NetworkError
from rha.wire.address import Address, parse_address
from rha.wire.identity import Identity, role_of

__all__ = ["Address", "Identity", "parse_address"]

_NO_PASSPHRASE = b""  # an encrypted key fails at once; without this OpenSSL would ask on the terminal
_FAREWELL_SECONDS = 0.5  # how long a refused client may keep its connection

# The peer's alert or our own verdict, as OpenSSL words it (`ssl.SSLError.reason`, lower case), and what it means here.
_REASONS = (
    ("certificate_expired", "the certificate has expired", "rha pki show FILE; then issue a new one"),
    ("certificate has expired", "the certificate has expired", "rha pki show FILE; then issue a new one"),
    ("not yet valid", "the certificate is not valid yet", "compare the clocks of both hosts: date -u"),
    ("unknown_ca", "the certificate is of another CA", "both sides need the same ca.pem"),
    ("unable to get local issuer", "the certificate is of another CA", "both sides need the same ca.pem"),
    ("self-signed", "the certificate is of another CA", "both sides need the same ca.pem"),
    ("decrypt_error", "the certificate is of another CA", "both sides need the same ca.pem"),
    ("signature failure", "the certificate is of another CA", "both sides need the same ca.pem"),
    ("certificate_required", "no client certificate was shown", "issue one: rha pki issue master SCENARIO --dir DIR"),
    ("did not return a certificate", "no client certificate was shown", "rha pki issue master SCENARIO --dir DIR"),
    ("mismatch, certificate is not valid for", "", "issue the appliance's certificate with this --address"),
    ("purpose", "the certificate is of the other role", "rha pki show FILE"),
    ("unsupported_certificate", "the certificate is of the other role", "rha pki show FILE"),
    ("protocol_version", "the other side does not speak TLS 1.3", "is it rha on the other side?"),
    ("unsupported protocol", "the other side does not speak TLS 1.3", "is it rha on the other side?"),
    ("wrong_version_number", "what came back is not TLS", "is it rha on the other side?"),
    ("http_request", "what came is not TLS", "is it rha on the other side?"),
)


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """The appliance's side: every client must show a certificate of `ca`. Session tickets are off: each connection is
    judged by its certificate anew.

    Raises ConfigError when a file is unusable, NetworkError when key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return _equipped(context, ca, certificate, key)


def client_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """The engine's side: the server's certificate must be of `ca` and name the address connected to.

    Raises ConfigError when a file is unusable, NetworkError when key and certificate do not belong together.
    """
    return _equipped(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca, certificate, key)


def _equipped(context: ssl.SSLContext, ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    for path in (ca, certificate, key):
        _check_readable(path)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigError(f"{ca} holds no CA certificate", cause=_reason(error), hint=f"rha pki show {ca}") from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: _NO_PASSPHRASE)
    except ssl.SSLError as error:
        raise _bad_pair(certificate, key, error) from error
    return context


def _check_readable(path: Path) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", cause=error.strerror or str(error), hint=f"ls -l {path}") from error


def _bad_pair(certificate: Path, key: Path, error: ssl.SSLError) -> ConfigError | NetworkError:
    if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error):
        return NetworkError(
            f"{key} is not the key of {certificate}", cause="the public keys differ", hint="issue both again"
        )
    return ConfigError(
        f"{certificate} and {key} are no certificate with its key",
        cause=f"{_reason(error)} (an encrypted key cannot be used: daemons start without a person)",
        hint=f"rha pki show {certificate}",
    )


def connect(address: Address | str, context: ssl.SSLContext, timeout: float) -> ssl.SSLSocket:
    """A verified connection to an appliance. `timeout` in seconds bounds connecting, the handshake, and later each
    silence of the peer (TCP_USER_TIMEOUT); the returned socket has it as its timeout.

    Raises NetworkError when nobody answers, or the one who answers is not an appliance of our CA.
    """
    to = parse_address(address) if isinstance(address, str) else address
    with explain(f"no connection to {to}"), contextlib.ExitStack() as undo:
        raw = undo.enter_context(socket.create_connection(to, timeout))
        tune(raw, timeout)
        secure = undo.enter_context(context.wrap_socket(raw, server_hostname=to.host))
        require_appliance(peer_identity(secure))
        undo.pop_all()
        return secure


def accept(
    raw: socket.socket, context: ssl.SSLContext, timeout: float, role: str = "master"
) -> tuple[ssl.SSLSocket, Identity]:
    """The handshake on an accepted connection, in the thread that serves it. Closes `raw` when it fails.

    Raises NetworkError when the client shows no certificate of our CA for that role.
    """
    with explain(f"connection from {_peer_name(raw)} refused"), contextlib.ExitStack() as undo:
        undo.callback(raw.close)
        tune(raw, timeout)
        raw.settimeout(timeout)
        secure = undo.enter_context(context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False))
        _shake_hands(secure)
        identity = peer_identity(secure)
        if identity.role != role:
            raise NetworkError(f"the client is no {role}", cause=f"{identity.subject} is {identity.role}")
        undo.pop_all()
        return secure, identity


def _shake_hands(secure: ssl.SSLSocket) -> None:
    """The server's handshake. After a refusal the socket is read to its end: closed with unread data it would send a
    reset, and the client's next write would fail with that before it has read the alert which tells it why."""
    try:
        secure.do_handshake()
    except ssl.SSLError:
        secure.settimeout(_FAREWELL_SECONDS)
        with contextlib.suppress(OSError):
            secure.shutdown(socket.SHUT_WR)
            while socket.socket.recv(secure, 1 << 16):
                pass
        raise


def listen(address: Address | str, backlog: int = 16) -> socket.socket:
    """A listening TCP socket. An IPv6 wildcard takes IPv4 connections too.

    Raises NetworkError when the port is taken or the address is not one of this host, HostError when it needs root.
    """
    to = parse_address(address) if isinstance(address, str) else address
    family = socket.AF_INET6 if ":" in to.host else socket.AF_INET
    try:
        return socket.create_server(to, family=family, backlog=backlog, dualstack_ipv6=to.host == "::")
    except PermissionError as error:
        raise HostError(f"{to} cannot be listened on", cause="ports below 1024 need root") from error
    except OSError as error:
        raise _cannot_listen(to, error) from error


def _cannot_listen(to: Address, error: OSError) -> NetworkError:
    cause, hint = error.strerror or str(error), "choose an address of this host: ip address"
    if error.errno == errno.EADDRINUSE:
        cause, hint = "another program listens on this port", f"ss -ltnp 'sport = :{to.port}'"
    return NetworkError(f"{to} cannot be listened on", cause=cause, hint=hint)


def tune(sock: socket.socket, timeout: float) -> None:
    """Small frames leave at once; a dead peer is noticed after about `timeout` seconds, with data under way or not."""
    probe = max(1, round(timeout / 4))
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(timeout * 1000))),
    ]
    for level, name, value in options:
        sock.setsockopt(level, name, value)


def peer_identity(sock: ssl.SSLSocket) -> Identity:
    """Who the verified peer is.

    Raises NetworkError when its certificate names no role of ours, or has expired since the handshake.
    """
    return identity_of(sock.getpeercert() or {}, time.time())


def identity_of(certificate: dict[str, Any], now: float) -> Identity:
    """`peer_identity` for the dict of `SSLSocket.getpeercert` and a time in seconds since the epoch."""
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    subject = ", ".join(f"{key}={value}" for part in certificate.get("subject", ()) for key, value in part)
    role, scenario = role_of(uris)
    if not role:
        cause = f"{subject or 'no subject'}, URIs: {', '.join(uris) or 'none'}"
        raise NetworkError("the certificate names no role", cause=cause, hint="issue it with: rha pki issue")
    not_after = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
    if now > not_after:
        cause = f"valid until {certificate['notAfter']}"
        raise NetworkError(f"the certificate of {subject} has expired", cause=cause, hint="rha pki issue")
    return Identity(role, scenario, subject, not_after)


def require_appliance(identity: Identity) -> None:
    """Raises NetworkError unless the peer is an appliance."""
    if identity.role != "appliance":
        cause = f"{identity.subject} is {identity.role} of scenario {identity.scenario!r}"
        raise NetworkError("the server is no appliance", cause=cause, hint="rha pki issue appliance NAME --dir DIR")


def require_master(identity: Identity, scenario: str) -> None:
    """Raises NetworkError unless the peer is the master of this scenario: no master touches another's images."""
    if (identity.role, identity.scenario) != ("master", scenario):
        held = f"scenario {identity.scenario!r}" if identity.role == "master" else f"role {identity.role}"
        raise NetworkError(
            f"the certificate is not for scenario {scenario!r}",
            cause=f"{identity.subject} is issued for {held}",
            hint=f"rha pki issue master {scenario} --dir DIR",
        )


@contextlib.contextmanager
def explain(what: str) -> Iterator[None]:
    """Makes a NetworkError of every socket and TLS error of the block: wrap reads and writes on a connection in it."""
    try:
        yield
    except OSError as error:
        raise network_error(what, error) from error


def network_error(what: str, error: OSError) -> NetworkError:
    """The error with its meaning: which certificate trouble, refused, no answer, no such host."""
    if isinstance(error, ssl.SSLError):
        text = f"{error.reason or ''} {getattr(error, 'verify_message', '')} {error}".lower()
        for mark, cause, hint in _REASONS:
            if mark in text:
                return NetworkError(what, cause=cause or _reason(error), hint=hint)
        return NetworkError(what, cause=_reason(error))
    if isinstance(error, socket.gaierror):
        return NetworkError(what, cause=f"the name is not known ({error.strerror})", hint="getent hosts NAME")
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(what, cause="nobody listens there", hint="systemctl status rha-appliance")
    if isinstance(error, TimeoutError):
        return NetworkError(what, cause="no answer in time", hint="is a firewall in between?")
    return NetworkError(what, cause=error.strerror or str(error))


def _reason(error: ssl.SSLError) -> str:
    verdict = getattr(error, "verify_message", "")
    return verdict or (error.reason or str(error)).replace("_", " ").lower()


def _peer_name(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # it hung up already; the handshake will say so
        return "a client that is gone"
    return str(Address(host, port))
