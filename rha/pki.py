"""A certificate authority of one's own: one CA, one certificate per appliance, one per scenario.

A certificate says in a SAN URI what its holder is: `urn:rha:appliance` or `urn:rha:master:SCENARIO`. Keys are ECDSA
P-256, unencrypted (daemons start without a person), mode 0600, and never overwritten.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rha.errors import ConfigError, NetworkError, StateError
from rha.wire.address import why_no_host
from rha.wire.identity import APPLIANCE_URI, MASTER_URI, role_of

CA_DAYS = 3650
LEAF_DAYS = 825
CLOCK_SKEW = dt.timedelta(hours=1)  # certificates begin this much earlier: clocks of masters differ
_BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # an appliance asks observers, too
_PEM = serialization.Encoding.PEM
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


class Shown(NamedTuple):
    """What a certificate says. `role`: ca, appliance, master, or empty; `days_left` is negative once it has expired."""

    path: Path
    subject: str
    role: str
    scenario: str
    addresses: list[str]
    not_after: dt.datetime
    days_left: int


def init(directory: Path, organisation: str, *, days: int = CA_DAYS) -> Pair:
    """Makes a CA in `directory` (created with mode 0700 when it is not there).

    Raises StateError when a CA is there already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"{organisation} rha CA", organisation)
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _write(directory / "ca", builder.sign(key, hashes.SHA256()), key)


def issue_appliance(directory: Path, name: str, addresses: Sequence[str], *, days: int = LEAF_DAYS) -> Pair:
    """Certificate of an appliance; masters will reach it under one of `addresses` (DNS names, IP addresses).

    Raises ConfigError on a bad name or address, StateError when the files exist or the CA is missing.
    """
    _check_name(name)
    if not addresses:
        raise ConfigError("no address given", cause="masters compare it with the address they connect to")
    names = [_general_name(text) for text in addresses]
    uri = x509.UniformResourceIdentifier(APPLIANCE_URI)
    return _issue(directory, f"appliance-{name}", [uri, *names], _BOTH, days)


def issue_master(directory: Path, scenario: str, *, days: int = LEAF_DAYS) -> Pair:
    """Certificate of the master of one scenario.

    Raises ConfigError on a bad name, StateError when the files exist or the CA is missing.
    """
    _check_name(scenario)
    uri = x509.UniformResourceIdentifier(MASTER_URI + scenario)
    return _issue(directory, f"master-{scenario}", [uri], [ExtendedKeyUsageOID.CLIENT_AUTH], days)


def show(path: Path, *, now: dt.datetime | None = None) -> Shown:
    """What the first certificate of a PEM file says.

    Raises ConfigError when the file cannot be read or holds no certificate.
    """
    certificate = _read_certificate(path)
    extensions = certificate.extensions
    role, scenario, addresses = "", "", []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        role, scenario = role_of(names.get_values_for_type(x509.UniformResourceIdentifier))
        addresses = [str(n.value) for n in names if isinstance(n, x509.DNSName | x509.IPAddress)]
    with contextlib.suppress(x509.ExtensionNotFound):
        role = "ca" if extensions.get_extension_for_class(x509.BasicConstraints).value.ca else role
    until = certificate.not_valid_after_utc
    left = (until - (now or dt.datetime.now(dt.UTC))).days
    return Shown(path, certificate.subject.rfc4514_string(), role, scenario, addresses, until, left)


def _issue(
    directory: Path, stem: str, names: list[x509.GeneralName], usage: list[x509.ObjectIdentifier], days: int
) -> Pair:
    ca, ca_key = _read_ca(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_subject(stem), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    return _write(directory / stem, builder.sign(ca_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """`days` from now; zero or less makes one that has expired already, which only tests want."""
    now = dt.datetime.now(dt.UTC)
    until = now + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - CLOCK_SKEW)
        .not_valid_after(until)
    )


def _subject(common_name: str, organisation: str = "") -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, common_name)]
    try:
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])
    except ValueError as error:
        raise ConfigError(f"{common_name!r} cannot stand in a certificate", cause=str(error)) from error


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    why = why_no_host(text)
    if why:
        raise ConfigError(
            f"{text!r} is no address", cause=why, hint="give a host name or an IP address, without a port"
        )
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name", cause="lower-case letters, digits and inner hyphens, at most 63")


def _read_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (directory / "ca.key").exists():
        raise StateError(
            f"{directory} holds no CA", cause="ca.key is missing", hint=f"rha pki init {directory} --name ORG"
        )
    certificate = _read_certificate(directory / "ca.pem")
    try:
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{directory / 'ca.key'} cannot be read", cause=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise NetworkError(f"{directory / 'ca.key'} is not the key of ca.pem", cause="the public keys differ")
    return certificate, key


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", cause=error.strerror or str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate", cause=str(error)) from error


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    """Both files or none: what was written is taken back when the second cannot be made."""
    pair = Pair(stem.with_name(stem.name + ".pem"), stem.with_name(stem.name + ".key"))
    encoded = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with _new_file(pair.key, encoded, 0o600), _new_file(pair.certificate, certificate.public_bytes(_PEM), 0o644):
        return pair


@contextlib.contextmanager
def _new_file(path: Path, content: bytes, mode: int) -> Iterator[None]:
    """A new file, on stable storage; removed again when the block fails.

    Raises StateError when the path exists already.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise StateError(
            f"{path} exists already", cause="keys are never overwritten", hint=f"mv {path} elsewhere"
        ) from error
    except OSError as error:
        raise StateError(f"{path} cannot be made", cause=error.strerror or str(error)) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
