"""What a scenario wants of the substitute's guest. Pure but for the time."""

from __future__ import annotations

import time

from rha import substitute
from rha.scenario import Scenario
from rha.vm.card import network_of
from rha.vm.guest.travel import Request
from rha.vm.guest.tree import Wish


def sentence(scenario: Scenario) -> str:
    """What is to be done to the guest, as a step's sentence; empty when there is nothing to change or to look up."""
    vm, guest = scenario.vm, scenario.vm.guest
    wished = [*guest.addresses, *guest.gateways, *guest.dns, *filter(None, [guest.hostname])]
    parts = [
        *(["look up which bus it can drive"] if vm.bus == "auto" else []),
        *(["fit it to its new network card"] if vm.network.kind != "none" else []),
        *([f"set {', '.join(wished)}"] if wished else []),
    ]
    return f"adapt the guest in its overlay: {', '.join(parts)}" if parts and guest.adapt != "no" else ""


def request(scenario: Scenario, *, tcg: bool) -> Request:
    """`tcg`: no kvm on this host."""
    guest, bus = scenario.vm.guest, scenario.vm.bus
    wish = Wish(
        mac=network_of(scenario).mac.lower(),
        interface=guest.interface,
        addresses=guest.addresses,
        gateways=guest.gateways,
        dns=guest.dns,
        hostname=guest.hostname,
    )
    mark = substitute.encode(substitute.Mark(scenario=scenario.name, since=time.time()))
    return Request(act="adapt", tcg=tcg, wish=wish, mark=mark, bus="" if bus == "auto" else bus)
