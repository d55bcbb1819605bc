"""The Ethernet segment: who has an address, and telling everybody that it is here now. ARP (RFC 826, 5227), neighbour
discovery (RFC 4861, 4862). Frames are sent and read by packet sockets: the kernel's own duplicate detection begins
only when the address is set, and we want to know before.

RFC 5227 spaces its probes by 1-2 s because a host that boots may stand behind a switch port that does not forward yet.
Our card has been up for long, so the answer of a host that is alive takes milliseconds: probes follow each other in
tenths of a second. Rejected: the full 5-9 s, during which clients would find nobody.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from rha.errors import HostError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# linux/if_ether.h, RFC 826, RFC 4443, RFC 4861
_ETH_IPV4, _ETH_ARP, _ETH_IPV6 = 0x0800, 0x0806, 0x86DD
_REQUEST, _REPLY = 1, 2
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_ROUTER, _OVERRIDE = 0x80000000, 0x20000000
_TARGET_LINK_ADDRESS = 2
_BROADCAST, _NOBODY = b"\xff" * 6, b"\0" * 6
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_BYTES, _IPV6_BYTES = 14, 40

PROBES, PROBE_SECONDS = 3, 0.15
ANNOUNCEMENTS, ANNOUNCE_SECONDS = 5, 0.02  # a lost one would leave a client with the old MAC for minutes


@dataclass(frozen=True)
class Card:
    """An Ethernet interface of this host. `mac`: 6 bytes."""

    name: str
    index: int
    mac: bytes
    is_router: bool = False


def show_mac(mac: bytes) -> str:
    """`52:54:00:12:34:56`"""
    return mac.hex(":")


def owners(card: Card, addresses: Iterable[IpAddress], *, probes: int = PROBES) -> dict[IpAddress, str]:
    """Other hosts on the segment that have, or are just taking, one of the addresses: {address: MAC}.

    Asks all at once, `probes` times; takes at most `probes * PROBE_SECONDS`. Raises HostError without CAP_NET_RAW.
    """
    wanted = set(addresses)
    found: dict[IpAddress, str] = {}
    with ExitStack() as stack:
        sockets = {family: stack.enter_context(_open(card, family)) for family in {_family(a) for a in wanted}}
        for _ in range(probes):
            for address in wanted - set(found):
                sockets[_family(address)].send(_question(card, address))
            _listen(card, list(sockets.values()), wanted, found, time.monotonic() + PROBE_SECONDS)
            if len(found) == len(wanted):
                break
    return found


def announce(card: Card, addresses: Iterable[IpAddress]) -> None:
    """Gratuitous ARP as request and as reply (some stacks heed only one of them), unsolicited neighbour
    advertisement; several times. Raises HostError without CAP_NET_RAW."""
    wanted = list(addresses)
    with ExitStack() as stack:
        sockets = {family: stack.enter_context(_open(card, family)) for family in {_family(a) for a in wanted}}
        for number in range(ANNOUNCEMENTS):
            if number:
                time.sleep(ANNOUNCE_SECONDS)
            for address in wanted:
                for frame in announcements(card, address):
                    sockets[_family(address)].send(frame)


def announcements(card: Card, address: IpAddress) -> list[bytes]:
    """The frames that say: this address is at this card's MAC."""
    if isinstance(address, ipaddress.IPv6Address):
        return [_advertisement(card, address)]
    request = _arp(_REQUEST, card.mac, address.packed, _NOBODY, address.packed)
    return [request, _arp(_REPLY, card.mac, address.packed, _BROADCAST, address.packed)]


def _question(card: Card, address: IpAddress) -> bytes:
    """An ARP probe, or the solicitation of duplicate address detection: both without a sender's address, so that no
    cache is touched."""
    if isinstance(address, ipaddress.IPv4Address):
        return _arp(_REQUEST, card.mac, bytes(4), _NOBODY, address.packed)
    group = ipaddress.IPv6Address(ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    return _icmp6(card, ipaddress.IPv6Address(0), group, body)


def _advertisement(card: Card, address: ipaddress.IPv6Address) -> bytes:
    flags = _OVERRIDE | (_ROUTER if card.is_router else 0)
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, flags) + address.packed
    return _icmp6(card, address, _ALL_NODES, body + struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + card.mac)


def _arp(operation: int, sender: bytes, sender_ip: bytes, target: bytes, target_ip: bytes) -> bytes:
    ethernet = _BROADCAST + sender + struct.pack("!H", _ETH_ARP)
    return ethernet + _ARP.pack(1, _ETH_IPV4, 6, 4, operation, sender, sender_ip, target, target_ip)


def _icmp6(card: Card, source: ipaddress.IPv6Address, target: ipaddress.IPv6Address, body: bytes) -> bytes:
    ethernet = b"\x33\x33" + target.packed[12:] + card.mac + struct.pack("!H", _ETH_IPV6)
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + source.packed + target.packed
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), _ICMPV6)
    return ethernet + header + body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def claim(frame: bytes) -> tuple[IpAddress, bytes] | None:
    """The address that this frame's sender has, or is probing for, and the sender's MAC."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETH_ARP and len(frame) >= _ETHERNET_BYTES + _ARP.size:
        _, _, _, _, operation, mac, source, _, target = _ARP.unpack_from(frame, _ETHERNET_BYTES)
        is_probe = operation == _REQUEST and source == bytes(4)
        return ipaddress.IPv4Address(target if is_probe else source), mac
    message = frame[_ETHERNET_BYTES + _IPV6_BYTES :]
    if kind != _ETH_IPV6 or len(message) < 24 or frame[_ETHERNET_BYTES + 6] != _ICMPV6:
        return None
    is_probe = message[0] == _SOLICITATION and frame[22:38] == bytes(16)
    if message[0] != _ADVERTISEMENT and not is_probe:
        return None
    return ipaddress.IPv6Address(message[8:24]), frame[6:12]


def _listen(
    card: Card, sockets: list[socket.socket], wanted: set[IpAddress], found: dict[IpAddress, str], until: float
) -> None:
    while len(found) < len(wanted) and (left := until - time.monotonic()) > 0:
        for ready in select.select(sockets, [], [], left)[0]:
            said = claim(ready.recv(2048))
            if said and said[0] in wanted and said[1] != card.mac:
                found[said[0]] = show_mac(said[1])


def _family(address: IpAddress) -> int:
    return _ETH_ARP if address.version == 4 else _ETH_IPV6


def _open(card: Card, protocol: int) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    except PermissionError as error:
        raise HostError("the segment cannot be asked", cause="no CAP_NET_RAW", hint="run as root") from error
    try:
        opened.bind((card.name, protocol))
    except OSError:
        opened.close()
        raise
    return opened
