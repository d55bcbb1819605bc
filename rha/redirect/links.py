"""Network cards, their addresses and routes, by netlink (pyroute2). Acts in the namespace of the calling thread."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rha.errors import HostError, NetworkError
from rha.redirect.segment import Card

if TYPE_CHECKING:
    from pyroute2 import IPRoute

IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
# linux/if.h, if_addr.h, if_arp.h, rtnetlink.h
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x08, 0x40
_ETHERNET = 1
_RTPROT_KERNEL, _RTN_UNICAST, _MAIN_TABLE = 2, 1, 254


class Held(msgspec.Struct, frozen=True):
    """An address of this host. `is_usable`: not (or no longer) under the kernel's duplicate detection."""

    address: str  # with its prefix length
    card: str
    is_usable: bool = True


class Route(msgspec.Struct, frozen=True):
    """A route of the main table that somebody has set. `to`: a network; gateway and source may be empty."""

    to: str
    card: str
    gateway: str
    source: str
    metric: int
    protocol: int
    scope: int


def card(name: str) -> Card:
    """An Ethernet card that is up and plugged in. Raises HostError when it is absent or no Ethernet, NetworkError when
    it is down."""
    with _netlink() as ip:
        found = ip.link_lookup(ifname=name)
        if not found:
            known = ", ".join(link.get_attr("IFLA_IFNAME") for link in ip.get_links())
            raise HostError(f"this host has no network card {name}", cause=f"it has: {known}", hint="ip -br link")
        (link,) = ip.get_links(found[0])
    if link["ifi_type"] != _ETHERNET:
        raise HostError(f"{name} is no Ethernet card", cause="only Ethernet has ARP and neighbour discovery")
    why = _why_down(link["flags"])
    if why:
        raise NetworkError(f"network card {name} does not carry anything", cause=why, hint=f"ip link show {name}")
    forwarding = Path(f"/proc/sys/net/ipv6/conf/{name}/forwarding")
    is_router = forwarding.exists() and forwarding.read_text().strip() == "1"
    return Card(name, found[0], bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", "")), is_router)


def _why_down(flags: int) -> str | None:
    if not flags & _IFF_UP:
        return "it is not up"
    return None if flags & _IFF_LOWER_UP else "no carrier: cable, or bridge without a port"


def held() -> list[Held]:
    """Every address of this host."""
    with _netlink() as ip:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
        return [_held(message, names[message["index"]]) for message in ip.get_addr()]


def _held(message: Any, name: str) -> Held:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    text = str(ipaddress.ip_interface(f"{address}/{message['prefixlen']}"))
    return Held(text, name, not flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE))


def holder(address: IpInterface) -> Held | None:
    """Where this host has an address, whatever its prefix length."""
    return next((item for item in held() if ipaddress.ip_interface(item.address).ip == address.ip), None)


def add(name: str, address: IpInterface) -> None:
    """Sets an address; one that is there is well. Without the kernel's duplicate detection (1-2 s, RFC 4862): the
    caller has asked the segment himself. Raises NetworkError."""
    words: dict[str, Any] = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
    if isinstance(address, ipaddress.IPv4Interface) and address.network.prefixlen < 31:
        words["broadcast"] = str(address.network.broadcast_address)
    _change("add", name, address, words, well=errno.EEXIST)


def set_for(name: str, address: IpInterface, seconds: int) -> None:
    """Sets an address for so long, or anew for so long; then the kernel itself removes it. Raises NetworkError."""
    words: dict[str, Any] = {"valid_lft": seconds, "preferred_lft": seconds}
    if address.version == 6:
        words["flags"] = _IFA_F_NODAD
    _change("replace", name, address, words, well=errno.EEXIST)


def remove(name: str, address: IpInterface) -> None:
    """Removes an address; one that is gone is well. Raises NetworkError."""
    _change("del", name, address, {}, well=errno.EADDRNOTAVAIL)


def _change(verb: str, name: str, address: IpInterface, words: dict[str, Any], *, well: int) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ip:
        index = (ip.link_lookup(ifname=name) or [0])[0]
        try:
            ip.addr(verb, index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **words)
        except NetlinkError as error:
            if error.code == well:
                return
            what = f"address {address} cannot be {'removed from' if verb == 'del' else 'set on'} {name}"
            hint = "run as root" if error.code == errno.EPERM else f"ip address show {name}"
            raise NetworkError(what, cause=str(error), hint=hint) from error


def routes(name: str) -> list[Route]:
    """The routes over a card that the kernel has not made by itself."""
    with _netlink() as ip:
        index = (ip.link_lookup(ifname=name) or [0])[0]
        families = (socket.AF_INET, socket.AF_INET6)
        return [
            _route(message, name)
            for family in families
            for message in ip.get_routes(family=family)
            if message["table"] == _MAIN_TABLE
            and message.get_attr("RTA_OIF") == index
            and message["proto"] != _RTPROT_KERNEL
            and message["type"] == _RTN_UNICAST
        ]


def _route(message: Any, name: str) -> Route:
    everything = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    return Route(
        to=f"{message.get_attr('RTA_DST') or everything}/{message['dst_len']}",
        card=name,
        gateway=message.get_attr("RTA_GATEWAY") or "",
        source=message.get_attr("RTA_PREFSRC") or "",
        metric=message.get_attr("RTA_PRIORITY") or 0,
        protocol=message["proto"],
        scope=message["scope"],
    )


def add_route(route: Route) -> bool:
    """Sets a route. False when the kernel cannot: its gateway or source address is not there (any more)."""
    from pyroute2.netlink.exceptions import NetlinkError

    words = {"gateway": route.gateway, "prefsrc": route.source, "priority": route.metric}
    with _netlink() as ip:
        try:
            ip.route(
                "add",
                dst=route.to,
                oif=(ip.link_lookup(ifname=route.card) or [0])[0],
                proto=route.protocol,
                scope=route.scope,
                **{name: value for name, value in words.items() if value},
            )
        except NetlinkError as error:
            return bool(error.code == errno.EEXIST)
    return True


def prepare() -> None:
    """Raises HostError when the kernel cannot be asked."""
    with _netlink():
        pass


@contextlib.contextmanager
def _netlink() -> Iterator[IPRoute]:
    from pyroute2 import IPRoute  # 12 MiB, in every engine otherwise

    try:
        opened = IPRoute()
    except OSError as error:
        raise HostError("the kernel's network cannot be asked", cause=str(error)) from error
    with opened as ip:
        yield ip
