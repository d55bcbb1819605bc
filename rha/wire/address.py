"""`host:port` as people write it, IPv6 in brackets: `backup.example:7420`, `192.0.2.7:7420`, `[2001:db8::7]:7420`."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from rha.errors import ConfigError

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_FORMS = "write host:port, for example backup.example:7420 or [2001:db8::7]:7420"


class Address(NamedTuple):
    """Host name or IP address (IPv6 without brackets), and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The two parts of `host:port`.

    Raises ConfigError whose cause says what is missing or wrong.
    """
    why = _why_no_address(text)
    if why:
        raise ConfigError(f"{text!r} is no address", cause=why, hint=_FORMS)
    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))


def why_no_host(text: str) -> str | None:
    """What makes a host name or IP address (without port or brackets) unusable, or None."""
    if not text:
        return "the host is missing"
    if ":" in text or re.fullmatch(r"[\d.]+", text):
        return None if _is_ip(text) else f"{text!r} is no IP address"
    if not _HOSTNAME.fullmatch(text) or len(text) > 253:
        return f"{text!r} is no host name"
    return None


def why_no_port(port: int) -> str | None:
    """What makes a TCP port unusable, or None."""
    return None if 0 < port < 65536 else f"port {port} is not between 1 and 65535"


def _why_no_address(text: str) -> str | None:
    host, colon, port = text.rpartition(":")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        return "the port is missing"
    if not re.fullmatch(r"[0-9]{1,9}", port):
        return f"{port!r} is no port number"
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return "an IPv6 address needs brackets"
    if host.startswith("[") and not _is_ip(host[1:-1]):
        return f"{host!r} is no IPv6 address"
    return why_no_host(host.strip("[]")) or why_no_port(int(port))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
