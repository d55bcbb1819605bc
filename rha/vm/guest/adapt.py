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
from rha.vm.guest.tree import Edit, File, Profile, Tree, Unknown, Wish, packed

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
    for part in (_fit_card, _set_up, _hostname, _cloud_init):
        try:
            edits, said = part(tree, wish)
        except Unknown as error:
            found.warnings.append(str(error))
        else:
            found.edits.extend(edits)
            found.said.extend(said)
            tree = _patched(tree, edits)
    return Plan(_last_of_each(found.edits), found.said, list(dict.fromkeys(found.warnings)))


def _fit_card(tree: Tree, wish: Wish) -> tuple[list[Edit], list[str]]:
    """Raises Unknown when the set-up is not known."""
    if not wish.mac:
        return [], []
    found = _profiles(tree)
    candidates = _candidates(found, wish)
    card = _card(candidates[0], found)
    fitted: list[Edit] = _system(card).fit_card(tree, card, wish) if card.key else []
    said = [f"{card.system}: {_label(card)} is the card with MAC {wish.mac}"] if fitted and card.mac else []
    if name := card.name or wish.interface:
        return [*fitted, Edit(LINK, link_file(name, wish))], [
            *said,
            f"{card.system}: the new card gets the name {name}",
        ]
    return fitted, said or [f"{card.system}: takes any card"]


def _set_up(tree: Tree, wish: Wish) -> tuple[list[Edit], list[str]]:
    """Raises Unknown when it cannot be told where the addresses belong, or they cannot be set there."""
    if not wish.mac or not wish.changes_network:
        return [], []
    candidates = _candidates(_profiles(tree), wish)
    if len({each.name or each.key for each in candidates}) > 1:
        raise Unknown(f"several interfaces could be meant: {_names(candidates)}; name one in vm.guest.interface")
    said = f"{candidates[0].system}: {_label(candidates[0])} gets {_wished(wish)}"
    return _system(candidates[0]).set_up(tree, candidates[0], wish), [said]


def _system(profile: Profile) -> ModuleType:
    return next(system for system in SYSTEMS if profile.system == system.NAME)


def _profiles(tree: Tree) -> list[Profile]:
    """Raises Unknown when there is none."""
    found: list[Profile] = []
    for system in SYSTEMS:
        found += system.profiles(tree)
    if not found:
        names = ", ".join(system.NAME for system in SYSTEMS)
        raise Unknown(f"no network set-up that is known ({names}); the guest finds its card by itself or not at all")
    return found


def _candidates(found: Sequence[Profile], wish: Wish) -> Sequence[Profile]:
    """The interfaces that the substitute's only card may stand for; the first one is the best. Raises Unknown when none
    has the wished name, nor goes by something else than a name."""
    if wish.interface:
        named = [each for each in found if wish.interface in (each.name, each.key.rpartition("/")[2])]
        named = named or [each for each in found if not each.name and not each.below]
        if not named:
            raise Unknown(f"no interface {wish.interface} in the guest's files; there are {_names(found)}")
        return named
    leading = [each for each in found if each.gateway]
    return leading or [each for each in found if each.addressed] or found


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
    new = {edit.path: tree.get(edit.path, File(b"")) for edit in edits}
    contents = {edit.path: edit.content for edit in edits}
    return {**tree, **{path: msgspec.structs.replace(file, content=contents[path]) for path, file in new.items()}}


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
