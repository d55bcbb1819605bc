"""Does a host answer an ICMP echo request (RFC 792, RFC 4443)? No external program.

The kernel's ping socket is tried first: no capability, only a group in `net.ipv4.ping_group_range`. A raw socket is the
fallback for root. Raw sockets see everybody's ICMP, our own requests on loopback too, so a reply is ours only when it
is an echo reply *and* carries our random token.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time

from rha.watch.base import NoAnswer

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_KINDS = {  # family: (protocol, request type, reply type)
    socket.AF_INET: (socket.IPPROTO_ICMP, 8, 0),
    socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128, 129),
}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(kind: int, token: bytes) -> bytes:
    """An echo request. For ICMPv6 the kernel replaces the checksum, which covers addresses we do not know."""
    blank = _ECHO.pack(kind, 0, 0, os.getpid() & 0xFFFF, 1) + token
    return _ECHO.pack(kind, 0, checksum(blank), os.getpid() & 0xFFFF, 1) + token


def is_reply(packet: bytes, *, family: int, raw: bool, token: bytes) -> bool:
    """Is this packet the reply to the request with `token`? Only raw IPv4 sockets deliver the IP header."""
    if raw and family == socket.AF_INET:
        packet = packet[(packet[0] & 15) * 4 :] if packet else b""
    return len(packet) >= _ECHO.size and packet[0] == _KINDS[socket.AddressFamily(family)][2] and token in packet


def _open(family: int) -> tuple[socket.socket, bool]:
    """An ICMP socket and whether it is raw."""
    protocol = _KINDS[socket.AddressFamily(family)][0]
    try:
        return socket.socket(family, socket.SOCK_DGRAM, protocol), False
    except PermissionError:
        return socket.socket(family, socket.SOCK_RAW, protocol), True


def _wait(sock: socket.socket, *, raw: bool, token: bytes, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        if is_reply(sock.recv(2048), family=sock.family, raw=raw, token=token):
            return
    raise TimeoutError


def attempt(address: str, timeout: float) -> float:
    """Seconds until the reply. Raises NoAnswer."""
    begun = time.monotonic()
    try:
        family, _, _, _, target = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)[0]
        sock, raw = _open(family)
        with sock:
            token = secrets.token_bytes(16)
            sock.settimeout(timeout)
            sock.sendto(request(_KINDS[family][1], token), target)
            _wait(sock, raw=raw, token=token, until=begun + timeout)
    except TimeoutError as error:
        raise NoAnswer(f"no reply within {timeout:g} s") from error
    except socket.gaierror as error:
        raise NoAnswer(f"name not found ({error.strerror})") from error
    except OSError as error:
        raise NoAnswer(os.strerror(error.errno).lower() if error.errno else str(error)) from error
    return time.monotonic() - begun
