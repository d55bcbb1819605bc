"""Addresses of the master move to the appliance's card on the same segment; a master that comes back gives them up.

No address is set while somebody else answers for it. A conflict that appears later (RFC 5227, 2.4) is said by `verify`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time

import msgspec

from rha.errors import NetworkError, RhaError, StateError
from rha.redirect import links, segment
from rha.redirect.base import Act, Deadline, Memory, Place, Redirection, Sentences
from rha.redirect.links import IpInterface, Route
from rha.scenario import MoveIp

QUICK_PROBES = 2  # of apply: check has asked thoroughly before
FRESH_SECONDS = 1.0  # so old may its answer be, that apply need not ask again while clients wait


class Before(msgspec.Struct):
    """The memory. Replica: addresses that we have set. Master: addresses and routes that we have removed."""

    addresses: list[links.Held] = []
    routes: list[Route] = []


def move_ip(table: MoveIp, place: Place, memory: Memory) -> Redirection:
    """The side's half of the move."""
    return TakeIp(table, memory) if place.side == "replica" else GiveIp(table, memory)


class _Ip(Redirection):
    type = "ip"

    def __init__(self, table: MoveIp, memory: Memory) -> None:
        self._memory = memory
        self.limit = table.limit
        self.card = table.interface  # the appliance's
        self.addresses = [ipaddress.ip_interface(text) for text in table.addresses]

    def prepare(self) -> None:
        links.prepare()

    def _all(self) -> str:
        return ", ".join(map(str, self.addresses))


class TakeIp(_Ip):
    """The appliance's side: the addresses come to its card."""

    def __init__(self, table: MoveIp, memory: Memory) -> None:
        super().__init__(table, memory)
        self._found_free: set[IpInterface] = set()
        self._asked_at = -FRESH_SECONDS  # monotonic; valid for those that were found free

    def describe(self, act: Act) -> str:
        verbs = {Act.APPLY: "add {} to {}", Act.REVERT: "remove {} from {}"}
        return verbs.get(act, f"{act} {{}} on {{}}").format(self._all(), self.card)

    def check(self, deadline: Deadline) -> Sentences:
        """Raises HostError (no such card), NetworkError (card down, address in use), StateError (on another card)."""
        missing = self._missing()
        self._asked_at = time.monotonic()
        self._must_be_free(missing, segment.PROBES)
        self._found_free = set(missing)
        deadline.left()
        return [
            f"{address} is free on the segment of {self.card}" if address in missing else f"{address} is here already"
            for address in self.addresses
        ]

    def apply(self, deadline: Deadline) -> Sentences:
        """Raises as `check`; then nothing was changed."""
        missing = self._missing()
        if not self._are_just_found_free(missing):
            self._must_be_free(missing, QUICK_PROBES)
        deadline.left()
        before = self._memory.load(Before) or Before()
        before.addresses += [links.Held(str(item), self.card) for item in missing if not _has(before, item)]
        self._memory.save(before)
        try:
            for address in missing:
                links.add(self.card, address)
            segment.announce(links.card(self.card), [address.ip for address in self.addresses])
        except (RhaError, OSError):
            self._take_off(before)
            raise
        return [f"{address} is on {self.card}; announced to the segment" for address in self.addresses]

    def revert(self, deadline: Deadline) -> Sentences:
        """Only what we have set. Raises NetworkError."""
        before = self._memory.load(Before)
        if before is None:
            return [f"{self._all()}: nothing was changed"]
        self._take_off(before)
        return [f"{held.address} is gone from {held.card}" for held in before.addresses]

    def verify(self, deadline: Deadline) -> Sentences:
        """Raises StateError when an address is not here, or somebody else on the segment answers for it, too."""
        card = links.card(self.card)
        for address in self.addresses:
            where = links.holder(address)
            if where is None or where.card != self.card or not where.is_usable:
                elsewhere = where and where.card != self.card
                cause = f"it is on {where.card}" if where and elsewhere else "it is not set, or a duplicate"
                raise StateError(f"{address} is not served by {self.card}", cause=cause)
        others = segment.owners(card, [address.ip for address in self.addresses])
        for ip, mac in others.items():
            hint = "the master is back: on it, rha redirect apply SCENARIO --side master"
            raise NetworkError(f"{ip} is here, and another host answers for it", cause=f"MAC {mac}", hint=hint)
        mac = segment.show_mac(card.mac)
        return [f"{address} is on {self.card} ({mac}), and nobody else answers for it" for address in self.addresses]

    def _missing(self) -> list[IpInterface]:
        """Addresses that are not on our card yet. Raises StateError for one that this host has elsewhere."""
        links.card(self.card)
        missing = []
        for address in self.addresses:
            where = links.holder(address)
            if where is None:
                missing.append(address)
            elif where.card != self.card:
                cause = f"it is on {where.card}, and shall come to {self.card}"
                raise StateError(f"this host has {address} already", cause=cause, hint="ip -br address")
        return missing

    def _are_just_found_free(self, missing: list[IpInterface]) -> bool:
        """Has this object's own check asked for them all a moment ago?"""
        return self._found_free.issuperset(missing) and time.monotonic() - self._asked_at < FRESH_SECONDS

    def _must_be_free(self, missing: list[IpInterface], probes: int) -> None:
        found = segment.owners(links.card(self.card), [address.ip for address in missing], probes=probes)
        if found:
            taken = "; ".join(f"{item.ip} is at MAC {found[item.ip]}" for item in missing if item.ip in found)
            hint = "is the master still on the network? Nothing was changed"
            raise NetworkError(f"address in use on the segment of {self.card}", cause=taken, hint=hint)

    def _take_off(self, before: Before) -> None:
        for held in before.addresses:
            _remove_only(held.card, ipaddress.ip_interface(held.address))
        self._memory.clear()


class GiveIp(_Ip):
    """The master's side: the addresses leave the cards that have them."""

    def __init__(self, table: MoveIp, memory: Memory) -> None:
        super().__init__(table, memory)
        self._said: dict[IpInterface, tuple[float, str]] = {}  # how each stood, and when the segment was asked

    def describe(self, act: Act) -> str:
        verbs = {Act.APPLY: "remove {} from this master", Act.REVERT: "give {} back to this master"}
        return verbs.get(act, f"{act} {{}} on this master").format(self._all())

    def check(self, deadline: Deadline) -> Sentences:
        """What `apply` would remove, and whether somebody else answers for it already."""
        said = []
        for address in self.addresses:
            where = links.holder(address)
            said.append(self._standing(address, where) if where else f"{address} is not on this host")
            deadline.left()
        return said

    def apply(self, deadline: Deadline) -> Sentences:
        """Other addresses of the card, and the routes that still can be, stay. Raises NetworkError."""
        before = self._memory.load(Before) or Before()
        said = []
        for address in self.addresses:
            where = links.holder(address)
            if where is None:
                said.append(f"{address} is not on this host")
                continue
            standing = self._standing(address, where)
            before.addresses = [held for held in before.addresses if held.address != where.address] + [where]
            before.routes += [route for route in links.routes(where.card) if route not in before.routes]
            self._memory.save(before)
            _remove_only(where.card, ipaddress.ip_interface(where.address))
            said.append(f"{standing}; removed")
            deadline.left()
        return said

    def revert(self, deadline: Deadline) -> Sentences:
        """Raises NetworkError, with nothing changed, while somebody else answers for one of them."""
        before = self._memory.load(Before)
        if before is None:
            return [f"{self._all()}: nothing was changed"]
        for held in before.addresses:
            ip = ipaddress.ip_interface(held.address).ip
            for mac in segment.owners(links.card(held.card), [ip]).values():
                hint = "on the appliance: rha redirect revert SCENARIO"
                raise NetworkError(f"{ip} is still served by another host", cause=f"MAC {mac}", hint=hint)
            deadline.left()
        for held in before.addresses:
            address = ipaddress.ip_interface(held.address)
            links.add(held.card, address)
            segment.announce(links.card(held.card), [address.ip])
        for route in before.routes:
            links.add_route(route)
        self._memory.clear()
        return [f"{held.address} is on {held.card} again; announced to the segment" for held in before.addresses]

    def verify(self, deadline: Deadline) -> Sentences:
        """Raises StateError while this master still has one of them."""
        for address in self.addresses:
            where = links.holder(address)
            if where:
                hint = "rha redirect apply SCENARIO --side master"
                raise StateError(
                    f"this master still has {address}", cause=self._ask_standing(address, where), hint=hint
                )
        return [f"{address} is not on this host" for address in self.addresses]

    def _standing(self, address: IpInterface, where: links.Held) -> str:
        """The address is here; does another host answer for it, too? A card that is down cannot be asked. What was said
        a moment ago is said again: it decides nothing, and clients wait."""
        at, said = self._said.get(address, (-FRESH_SECONDS, ""))
        if time.monotonic() - at >= FRESH_SECONDS:
            said = self._ask_standing(address, where)
            self._said[address] = time.monotonic(), said
        return said

    def _ask_standing(self, address: IpInterface, where: links.Held) -> str:
        with contextlib.suppress(NetworkError):
            found = segment.owners(links.card(where.card), [address.ip])
            if found:
                return f"{address} is on {where.card}, and conflicts: MAC {found[address.ip]} answers for it, too"
        return f"{address} is on {where.card}"


def _has(before: Before, address: IpInterface) -> bool:
    return any(held.address == str(address) for held in before.addresses)


def _remove_only(card: str, address: IpInterface) -> None:
    """Removes one address. The kernel takes more with it: all other IPv4 addresses of the same network when it was the
    first of them (unless promote_secondaries is set), and routes that come from it. What still can be is set again."""
    neighbours, routes = [held for held in links.held() if held.card == card], links.routes(card)
    links.remove(card, address)
    left = {held.address for held in links.held() if held.card == card}
    for held in neighbours:
        if held.address not in left and held.address != str(address):
            links.add(card, ipaddress.ip_interface(held.address))
    kept = links.routes(card)
    for route in routes:
        if route not in kept:
            links.add_route(route)
