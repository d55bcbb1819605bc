"""What changes inside a guest before it boots as a substitute. Pure: its files and the wishes in,
edits and sentences out.

The substitute's card has another MAC, sits in another slot, and would so get another name: what names `ens18` finds no
such interface. It gets the old name back by one `.link` file (systemd.link(5)), which holds for every network system
and for what else knows the name (firewall rules, VLANs). Rejected: the new name written into the configuration, as it
depends on slot, machine type and systemd's version; `net.ifnames=0`, a change of the boot loader's files.
A card that is known by its MAC gets the new one there. Nothing else is changed unless the scenario says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import msgspec

from rha.redirect.hostname import renamed
from rha.substitute import MARK
from rha.vm.guest import ifupdown, keyfile, netplan, networkd
from rha.vm.guest.tree import Edit, Profile, Tree, Unknown, Wish, packed

# In the order in which they are asked when nothing else decides: netplan writes the files of the two behind it.
SYSTEMS: tuple[ModuleType, ...] = (netplan, keyfile, networkd, ifupdown)
LINK = "/etc/systemd/network/00-rha-substitute.link"
NO_CLOUD_INIT = "/etc/cloud/cloud-init.disabled"
HOSTNAME, HOSTS = "/etc/hostname", "/etc/hosts"
MAX_DEPTH = 8  # of interfaces made of interfaces


class Plan(NamedTuple):
    """`said`: what is changed and why, `warnings`: what could not be."""

    edits: list[Edit]
    said: list[str]
    warnings: list[str]


def plan(tree: Tree, wish: Wish, mark: bytes) -> Plan:
    """`mark`: the content of rha.substitute.MARK. Whatever cannot be done is a warning; all the rest is done."""
    found = Plan([Edit(MARK, mark)], [], [])
    for part in (_network, _hostname, _cloud_init):
        try:
            edits, said = part(tree, wish)
        except Unknown as error:
            found.warnings.append(str(error))
        else:
            found.edits.extend(edits)
            found.said.extend(said)
    return found


def _network(tree: Tree, wish: Wish) -> tuple[list[Edit], list[str]]:
    """Raises Unknown when a wish cannot be fulfilled, or the set-up is not known."""
    if not wish.mac:
        return [], []
    found = _profiles(tree)
    profile = _choose(found, wish)
    system = next(system for system in SYSTEMS if profile.system == system.NAME)
    card = _card(profile, found)
    fitted = system.fit_card(tree, card, wish) if card.key else []
    said = [f"{card.system}: {_label(card)} is the card with MAC {wish.mac}"] if fitted and card.mac else []
    edits: list[Edit] = list(fitted)
    if name := card.name or wish.interface:
        edits.append(Edit(LINK, link_file(name, wish)))
        said.append(f"{profile.system}: the substitute's card gets the name {name}")
    elif not fitted:
        said.append(f"{profile.system}: takes any card")
    if wish.changes_network:
        edits += system.set_up({**tree, **_patched(tree, fitted)}, profile, wish)
        said.append(f"{profile.system}: {_label(profile)} gets {_wished(wish)}")
    return _last_of_each(edits), said


def _profiles(tree: Tree) -> list[Profile]:
    """Raises Unknown when there is none."""
    found: list[Profile] = []
    for system in SYSTEMS:
        found += system.profiles(tree)
    if not found:
        names = ", ".join(system.NAME for system in SYSTEMS)
        raise Unknown(f"no network set-up that is known ({names}); the guest finds its card by itself or not at all")
    return found


def _choose(found: Sequence[Profile], wish: Wish) -> Profile:
    """The interface that the substitute's only card stands for. Raises Unknown when that cannot be told."""
    if wish.interface:
        named = [each for each in found if wish.interface in (each.name, each.key.rpartition("/")[2])]
        if not named and (any_card := [each for each in found if not each.name and not each.mac]):
            return any_card[0]
        if not named:
            raise Unknown(f"no interface {wish.interface} in the guest's files; there are {_names(found)}")
        return named[0]
    for better in ([each for each in found if each.gateway], [each for each in found if each.addressed], found):
        names = {(each.system, each.name or each.key) for each in better}
        if len({each.name for each in better}) == 1 or len(names) == 1:
            return better[0]
        if better and wish.changes_network:
            break
        if better:
            return better[0]
    raise Unknown(f"several interfaces could be meant: {_names(better)}; name one in vm.guest.interface")


def _card(profile: Profile, found: Sequence[Profile]) -> Profile:
    """The network card below a bridge, bond or VLAN; the first one where there are several. One that no file describes
    has its name only."""
    for _ in range(MAX_DEPTH):
        if not profile.below:
            return profile
        name = profile.below[0]
        profile = next((each for each in found if each.name == name), Profile(profile.system, "", name))
    raise Unknown(f"{_label(profile)} is made of itself")


def _names(found: Sequence[Profile]) -> str:
    return ", ".join(dict.fromkeys(map(_label, found)))


def _label(profile: Profile) -> str:
    return profile.name or profile.key.rpartition("/")[2]


def _wished(wish: Wish) -> str:
    parts = (("", wish.addresses), ("gateway ", wish.gateways), ("DNS ", wish.dns))
    return ", ".join(word + " ".join(texts) for word, texts in parts if texts)


def link_file(name: str, wish: Wish) -> bytes:
    """The driver stands beside the MAC because a VLAN or bridge has its card's MAC, and would be renamed too."""
    lines = ["# Written by rha: this host is a substitute. Removed at the switchback.", "[Match]"]
    lines += [f"MACAddress={wish.mac}", f"Driver={wish.driver}", "", "[Link]", f"Name={name}"]
    return packed("".join(f"{line}\n" for line in lines))


def _patched(tree: Tree, edits: Sequence[Edit]) -> Tree:
    """The files as they are after these edits."""
    return {
        edit.path: msgspec.structs.replace(tree[edit.path], content=edit.content) for edit in edits if edit.path in tree
    }


def _last_of_each(edits: Sequence[Edit]) -> list[Edit]:
    return list({edit.path: edit for edit in edits}.values())


def _hostname(tree: Tree, wish: Wish) -> tuple[list[Edit], list[str]]:
    """Raises Unknown when the guest keeps its name elsewhere."""
    if not wish.hostname:
        return [], []
    if HOSTNAME not in tree:
        raise Unknown(f"the guest has no {HOSTNAME}; its name stays")
    before = tree[HOSTNAME].text.strip()
    edits = [Edit(HOSTNAME, packed(f"{wish.hostname}\n"))]
    if HOSTS in tree and before:
        edits.append(Edit(HOSTS, packed(renamed(tree[HOSTS].text, before, wish.hostname))))
    return edits, [f"host name {before[:80]} becomes {wish.hostname}"]


def _cloud_init(tree: Tree, wish: Wish) -> tuple[list[Edit], list[str]]:
    """cloud-init would take the substitute for a new machine: other SSH host keys, and the network written anew."""
    if not any(path.startswith("/etc/cloud/") for path in tree) or NO_CLOUD_INIT in tree:
        return [], []
    return [Edit(NO_CLOUD_INIT, b"")], ["cloud-init is switched off"]
