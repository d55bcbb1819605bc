"""What makes a scenario's `[vm.guest]` wrong: what is set inside the substitute's guest before it boots."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from rha import schema
from rha.scenario_redirect import is_address, why_no_interface, why_no_interface_address
from rha.schema import Clean, Mistake

WISHES = ("addresses", "gateways", "dns", "hostname", "interface")
_NETWORK = ("addresses", "gateways", "dns", "interface")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
FORWARDED = "10.0.2.15"  # the first address of `-netdev user`
MAX_HOSTNAME = 64  # HOST_NAME_MAX of Linux


def rules(table: Clean, network: Clean) -> Iterator[Mistake]:
    """`table`: vm.guest; `network`: vm.network."""
    path = "vm.guest"
    if table.get("limit", 1) <= 0:
        yield Mistake(f"{path}.limit", "must be more than zero")
    wished = [field for field in WISHES if table.get(field)]
    if wished and table.get("adapt") == "no":
        yield Mistake(f"{path}.adapt", f'"no" changes nothing in the guest, yet {wished[0]} is set')
    needs_card = [field for field in _NETWORK if table.get(field)]
    if needs_card and network.get("kind") == "none":
        yield Mistake(f"{path}.{needs_card[0]}", 'the substitute has no network card: vm.network.kind is "none"')
    yield from _addresses(table, path)
    yield from _forwards(table, network, path)
    yield from _gateways(table, path)
    for index, text in enumerate(table.get("dns", [])):
        if not is_address(text):
            yield Mistake(f"{path}.dns[{index}]", f"{text!r} is no IP address")
    name = table.get("hostname", "")
    if name and (not _HOSTNAME.fullmatch(name) or len(name) > MAX_HOSTNAME):
        yield Mistake(f"{path}.hostname", f"{name!r} is no host name of at most {MAX_HOSTNAME} characters")
    if table.get("interface") and (why := why_no_interface(table["interface"])):
        yield Mistake(f"{path}.interface", why)


def _addresses(table: Clean, path: str) -> Iterator[Mistake]:
    texts = list(enumerate(table.get("addresses", [])))
    for index, text in texts:
        if why := why_no_interface_address(text):
            yield Mistake(f"{path}.addresses[{index}]", why)
    yield from schema.repeated((f"{path}.addresses[{i}]", text.partition("/")[0].lower()) for i, text in texts)


def _forwards(table: Clean, network: Clean, path: str) -> Iterator[Mistake]:
    """QEMU's own network leads a forwarded port to the one address that its DHCP gives."""
    addresses = [text.partition("/")[0] for text in table.get("addresses", []) if "." in text]
    if network.get("kind") == "user" and network.get("forward") and addresses and FORWARDED not in addresses:
        yield Mistake(f"{path}.addresses", f"ports of vm.network.forward lead to {FORWARDED}, which is not among them")


def _gateways(table: Clean, path: str) -> Iterator[Mistake]:
    networks = [
        ipaddress.ip_interface(text) for text in table.get("addresses", []) if not why_no_interface_address(text)
    ]
    seen = set[int]()
    for index, text in enumerate(table.get("gateways", [])):
        here = f"{path}.gateways[{index}]"
        if not is_address(text):
            yield Mistake(here, f"{text!r} is no IP address")
            continue
        gateway = ipaddress.ip_address(text)
        beside = [each for each in networks if each.version == gateway.version]
        if gateway.version in seen:
            yield Mistake(here, f"a second gateway for IPv{gateway.version}; there is one default route")
        elif beside and not gateway.is_link_local and not any(gateway in each.network for each in beside):
            yield Mistake(here, f"{text} is in the network of none of the addresses")
        elif any(gateway == each.ip for each in beside):
            yield Mistake(here, f"{text} is the guest's own address")
        seen.add(gateway.version)
