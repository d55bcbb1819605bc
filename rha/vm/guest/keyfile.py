"""NetworkManager: keyfiles in /etc/NetworkManager/system-connections (nm-settings-keyfile(5)). They hold secrets: the
mode 0600 that NetworkManager insists on stays, as a file is written in its place."""

from __future__ import annotations

import ipaddress

from rha.vm.guest.ini import Ini
from rha.vm.guest.tree import Edit, Profile, Tree, Wish, family, files_in, packed, plain_name

NAME = "NetworkManager"
FOLDER = "/etc/NetworkManager/system-connections"
_WIRED = ("ethernet", "802-3-ethernet")
_UPPER = ("bridge", "bond", "team", "vlan")
_WITHOUT = ("disabled", "ignore")


def profiles(tree: Tree) -> list[Profile]:
    """One for each wired connection and for each bridge, bond, team and VLAN."""
    connections = {path: Ini(file.text) for path, file in files_in(tree, FOLDER, "")}
    found = []
    for path, ini in connections.items():
        kind = ini.first("connection", "type")
        if kind not in (*_WIRED, *_UPPER):
            continue
        methods = {version: _method(ini, version) for version in (4, 6)}
        is_port = bool(_above(ini))
        manual = bool(ini.first("ipv4", "gateway") or any(_gateway_inside(ini)))
        found.append(
            Profile(
                system=NAME,
                key=path,
                name=plain_name(ini.first("connection", "interface-name")),
                mac=next((ini.first(name, "mac-address") for name in _WIRED if ini.first(name, "mac-address")), ""),
                below=tuple(_below(ini, connections)) if kind in _UPPER else (),
                gateway=not is_port and (methods[4] == "auto" or manual),
                addressed=not is_port and any(method in ("auto", "manual") for method in methods.values()),
            )
        )
    return found


def _method(ini: Ini, version: int) -> str:
    return ini.first(f"ipv{version}", "method") or "auto"


def _gateway_inside(ini: Ini) -> list[str]:
    """`address1=192.0.2.10/24,192.0.2.1`."""
    lines = [section.lines for section in ini.named("ipv4")]
    values = [line.partition("=")[2] for group in lines for line in group if line.startswith("address")]
    return [value for value in values if "," in value]


def _above(ini: Ini) -> list[str]:
    return [value for key in ("master", "controller") for value in ini.values("connection", key)]


def _below(ini: Ini, connections: dict[str, Ini]) -> list[str]:
    """The interfaces that this one is made of: its ports' profiles name it, by interface or by uuid; a VLAN names its
    parent."""
    names = {ini.first("connection", "interface-name"), ini.first("connection", "uuid")} - {""}
    parents = ini.values("vlan", "parent")
    ports = [port.first("connection", "interface-name") for port in connections.values() if names & set(_above(port))]
    return [name for name in map(plain_name, [*parents, *ports]) if name]


def fit_card(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """A connection that knows its card by MAC is for the new one."""
    ini, changed = Ini(tree[profile.key].text), False
    for name in _WIRED:
        if ini.values(name, "mac-address"):
            ini.set(name, "mac-address", wish.mac.upper())
            changed = True
    return [Edit(profile.key, packed(ini.text))] if changed else []


def set_up(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """Addresses, default route and name servers."""
    ini = Ini(tree[profile.key].text)
    for version in wish.routed:
        _set_family(ini, version, wish)
    if wish.dns:
        for version in (4, 6):
            section = f"ipv{version}"
            ini.drop(section, lambda key, _: key in ("dns", "ignore-auto-dns"))
            if _method(ini, version) in _WITHOUT:
                continue
            if servers := wish.of(version, wish.dns):
                ini.set(section, "dns", "".join(f"{server};" for server in servers))
            ini.set(section, "ignore-auto-dns", "true")
    return [Edit(profile.key, packed(ini.text))]


def _set_family(ini: Ini, version: int, wish: Wish) -> None:
    section = f"ipv{version}"
    everywhere = {"0.0.0.0/0", "::/0"}
    for found in ini.named(section):
        found.drop(lambda key, value: key.startswith("route") and value.split(",")[0] in everywhere)
    ini.drop(section, lambda key, _: key == "gateway")
    if addresses := wish.of(version, wish.addresses):
        ini.drop(section, lambda key, _: key.startswith("address") and not key.startswith("address-"))
        for number, text in enumerate(addresses, 1):
            ini.set(section, f"address{number}", text)
        ini.set(section, "method", "manual")
    else:
        _cut_gateways(ini, section)
    for gateway in wish.of(version, wish.gateways):
        ini.set(section, "gateway", gateway)


def _cut_gateways(ini: Ini, section: str) -> None:
    """The addresses stay; what stands behind their comma is an older gateway."""
    for found in ini.named(section):
        found.lines = [
            line.partition(",")[0] if line.startswith("address") and family(_address(line)) else line
            for line in found.lines
        ]


def _address(line: str) -> str:
    text = line.partition("=")[2].partition(",")[0].strip()
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        return ""
