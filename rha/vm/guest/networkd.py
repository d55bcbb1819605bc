"""systemd-networkd: `*.network` and `*.netdev` in /etc/systemd/network (systemd.network(5), systemd.netdev(5))."""

from __future__ import annotations

from rha.vm.guest.ini import Ini, Section
from rha.vm.guest.tree import Edit, Profile, Tree, Unknown, Wish, family, files_in, packed, plain_name

NAME = "systemd-networkd"
FOLDER = "/etc/systemd/network"
_HARDWARE = ("MACAddress", "PermanentMACAddress", "Path", "Driver")  # nothing of them is true of the substitute's card
_DHCP = {"yes": {4, 6}, "true": {4, 6}, "1": {4, 6}, "on": {4, 6}, "both": {4, 6}, "ipv4": {4}, "v4": {4}}
_DHCP |= {"ipv6": {6}, "v6": {6}}


def profiles(tree: Tree) -> list[Profile]:
    """One for each .network file that is not for loopback."""
    made = _made_of(tree)
    found = []
    for path, file in files_in(tree, FOLDER, ".network"):
        ini = Ini(file.text)
        match = " ".join(ini.values("Match", "Name"))
        if match == "lo" or ini.values("Match", "Type") == ["loopback"]:
            continue
        name = plain_name(match)
        mac = ini.first("Match", "MACAddress") or ini.first("Match", "PermanentMACAddress")
        static = [*ini.values("Network", "Address"), *ini.values("Address", "Address")]
        gateway = bool(ini.values("Network", "Gateway")) or any(map(_is_default, ini.named("Route")))
        found.append(
            Profile(
                system=NAME,
                key=path,
                name=name,
                mac=mac,
                below=tuple(made.get(name, ())),
                gateway=gateway or bool(_dhcp(ini)),
                addressed=bool(static) or bool(_dhcp(ini)),
            )
        )
    return found


def _made_of(tree: Tree) -> dict[str, list[str]]:
    """By name of a virtual interface: the names of those it is made of."""
    made: dict[str, list[str]] = {}
    for _, file in files_in(tree, FOLDER, ".netdev"):
        made.setdefault(Ini(file.text).first("NetDev", "Name"), [])
    for _, file in files_in(tree, FOLDER, ".network"):
        ini = Ini(file.text)
        name = plain_name(" ".join(ini.values("Match", "Name")))
        for key in ("Bridge", "Bond", "VLAN", "MACVLAN"):
            for upper in ini.values("Network", key):
                if name:
                    made.setdefault(upper, []).append(name)
    return made


def fit_card(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """A file that knows its card by hardware is for the new one."""
    ini = Ini(tree[profile.key].text)
    match = ini.section("Match")
    if not any(match.values(key) for key in _HARDWARE):
        return []
    match.drop(lambda key, _: key in _HARDWARE)
    match.put("MACAddress", wish.mac)
    return [Edit(profile.key, packed(ini.text))]


def set_up(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """Addresses, default route, name servers. Raises Unknown when the file has drop-ins, which could say otherwise."""
    if any(path.startswith(f"{profile.key}.d/") for path in tree):
        raise Unknown(f"{profile.key} has drop-ins in {profile.key}.d")
    ini = Ini(tree[profile.key].text)
    ini.drop("Network", lambda key, value: key == "Address" and family(value) in wish.addressed)
    ini.drop("Network", lambda key, value: key == "Gateway" and family(value) in wish.routed)
    ini.sections = [section for section in ini.sections if not _is_replaced(section, wish)]
    kept = _dhcp(ini) - wish.addressed
    if _dhcp(ini) != kept:
        ini.set("Network", "DHCP", {0: "no", 1: f"ipv{next(iter(kept), 4)}"}.get(len(kept), "yes"))
    network = ini.section("Network")
    for text in wish.addresses:
        network.put("Address", text)
    for text in wish.gateways:
        network.put("Gateway", text)
    if wish.dns:
        ini.drop("Network", lambda key, _: key == "DNS")
        for text in wish.dns:
            network.put("DNS", text)
    return [Edit(profile.key, packed(ini.text))]


def _dhcp(ini: Ini) -> set[int]:
    return set(_DHCP.get("".join(ini.values("Network", "DHCP")[-1:]).lower(), ()))


def _is_replaced(section: Section, wish: Wish) -> bool:
    if section.name == "Address":
        return any(family(value) in wish.addressed for value in section.values("Address"))
    return section.name == "Route" and _is_default(section) and _family_of_route(section) in wish.routed


def _is_default(section: Section) -> bool:
    return bool(section.values("Gateway")) and section.values("Destination") in ([], ["0.0.0.0/0"], ["::/0"])


def _family_of_route(section: Section) -> int:
    return family(section.values("Gateway")[0])
