"""ifupdown: /etc/network/interfaces and the files in interfaces.d (interfaces(5))."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from rha.vm.guest.tree import Edit, Profile, Tree, Unknown, Wish, packed, plain_name

NAME = "ifupdown"
MAIN = "/etc/network/interfaces"
FOLDER = "/etc/network/interfaces.d"
RESOLVER = "/etc/resolv.conf"
_STARTS = ("auto", "iface", "mapping", "source", "source-directory", "rename", "no-auto-down", "no-scripts", "template")
_FAMILIES = {"inet": 4, "inet6": 6}
_ADDRESS = ("address", "netmask", "broadcast", "network", "pointopoint", "scope")
_PORTS = ("bridge_ports", "bridge-ports", "bond-slaves", "vlan-raw-device", "vlan_raw_device")


@dataclass
class Stanza:
    """One stanza with the comments below it. `words`: of its first line. Options keep their lines."""

    words: list[str]
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.words[1] if self.words[:1] == ["iface"] and len(self.words) >= 4 else ""

    @property
    def version(self) -> int:
        return _FAMILIES.get(self.words[2], 0) if self.name else 0

    @property
    def method(self) -> str:
        return self.words[3] if self.name else ""

    def options(self, *keys: str) -> list[str]:
        """The words behind each of these keys."""
        rows = [line.split(None, 1) for line in self.lines[1:]]
        return [row[1] for row in rows if len(row) == 2 and row[0] in keys]

    def drop(self, *keys: str) -> None:
        self.lines[1:] = [line for line in self.lines[1:] if (line.split() or [""])[0] not in keys]

    def put(self, key: str, value: str) -> None:
        self.lines.insert(1, f"    {key} {value}")


def _read(text: str) -> list[Stanza]:
    stanzas = [Stanza([])]
    for line in text.replace("\\\n", " ").split("\n"):
        words = line.split()
        if words and (words[0] in _STARTS or words[0].startswith("allow-")):
            stanzas.append(Stanza(words, [line]))
        else:
            stanzas[-1].lines.append(line)
    return stanzas


def _files(tree: Tree) -> dict[str, list[Stanza]]:
    paths = [path for path in sorted(tree) if path == MAIN or path.rpartition("/")[0] == FOLDER]
    return {path: _read(tree[path].text) for path in paths}


def profiles(tree: Tree) -> list[Profile]:
    """One for each interface that has stanzas."""
    by_name: dict[str, list[Stanza]] = {}
    for stanzas in _files(tree).values():
        for stanza in stanzas:
            if plain_name(stanza.name) and stanza.method != "loopback":
                by_name.setdefault(stanza.name, []).append(stanza)
    return [_profile(name, stanzas) for name, stanzas in by_name.items()]


def _profile(name: str, stanzas: list[Stanza]) -> Profile:
    words = [word for stanza in stanzas for option in stanza.options(*_PORTS) for word in option.split()]
    below = [word for word in words if word not in ("none", "all", "regex")]
    parent, dot, _ = name.rpartition(".")
    return Profile(
        system=NAME,
        key=name,
        name=name,
        below=tuple(below or ([parent] if dot else [])),
        gateway=any(stanza.options("gateway") or stanza.method == "dhcp" for stanza in stanzas),
        addressed=any(stanza.method in ("static", "dhcp", "auto") for stanza in stanzas),
    )


def fit_card(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """These files know their card by its name only."""
    return []


def set_up(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """Addresses, default route and name servers: the first stanza of a family is rewritten, others of it that set
    addresses go. /etc/resolv.conf as well, where it is a file: without resolvconf nobody reads `dns-nameservers`."""
    files = _files(tree)
    home = next(path for path, stanzas in files.items() if any(stanza.name == profile.key for stanza in stanzas))
    for version in sorted(wish.addressed):
        _set_addresses(files, home, profile.key, version, wish)
    for version in sorted(wish.routed):
        _set_gateway(_of(files, profile.key, version), version, wish)
    if wish.dns:
        stanzas = [stanza for version in (4, 6) for stanza in _of(files, profile.key, version)]
        for stanza in stanzas:
            stanza.drop("dns-nameservers", "dns-nameserver")
        stanzas[0].put("dns-nameservers", " ".join(wish.dns))
    changed = {
        path: _text(stanzas) for path, stanzas in files.items() if _text(stanzas) != _text(_read(tree[path].text))
    }
    return [*(Edit(path, packed(text)) for path, text in changed.items()), *_resolver(tree, wish)]


def _of(files: dict[str, list[Stanza]], name: str, version: int) -> list[Stanza]:
    return [each for stanzas in files.values() for each in stanzas if each.name == name and each.version == version]


def _set_addresses(files: dict[str, list[Stanza]], home: str, name: str, version: int, wish: Wish) -> None:
    kind = "inet" if version == 4 else "inet6"
    wanted = wish.of(version, wish.addresses)
    found = _of(files, name, version)
    if not found:
        found = [_static(name, kind)]
        _put_behind(files[home], files[home][-1], found)
    first, others = found[0], [stanza for stanza in found[1:] if stanza.method in ("static", "dhcp", "auto")]
    first.words[3] = "static"
    first.lines[0] = f"iface {name} {kind} static"
    first.drop(*_ADDRESS)
    _put_address(first, wanted[0])
    _remove(files, lambda stanza: any(stanza is other for other in others))
    extra = [_static(name, kind) for _ in wanted[1:]]
    for stanza, text in zip(extra, wanted[1:], strict=True):
        _put_address(stanza, text)
    for stanzas in files.values():
        if any(stanza is first for stanza in stanzas):
            _put_behind(stanzas, first, extra)


def _static(name: str, kind: str) -> Stanza:
    return Stanza(["iface", name, kind, "static"], [f"iface {name} {kind} static", ""])


def _put_behind(stanzas: list[Stanza], place: Stanza, more: list[Stanza]) -> None:
    """With an empty line between them."""
    if more and place.lines and place.lines[-1].strip():
        place.lines.append("")
    at = next(index for index, stanza in enumerate(stanzas) if stanza is place) + 1
    stanzas[at:at] = more


def _put_address(stanza: Stanza, text: str) -> None:
    """With its mask on a line of its own: ifupdown before Debian 9 knows no prefix in an address."""
    address = ipaddress.ip_interface(text)
    stanza.put("netmask", str(address.netmask) if address.version == 4 else str(address.network.prefixlen))
    stanza.put("address", str(address.ip))


def _remove(files: dict[str, list[Stanza]], test: Callable[[Stanza], bool]) -> None:
    for path, stanzas in files.items():
        files[path] = [stanza for stanza in stanzas if not test(stanza)]


def _set_gateway(stanzas: list[Stanza], version: int, wish: Wish) -> None:
    wanted = wish.of(version, wish.gateways)
    if wanted and not any(stanza.method == "static" for stanza in stanzas):
        raise Unknown(f"a gateway for IPv{version} needs an address beside it: the interface has no static one")
    for stanza in stanzas:
        stanza.drop("gateway")
    for gateway in wanted:
        next(stanza for stanza in stanzas if stanza.method == "static").put("gateway", gateway)


def _resolver(tree: Tree, wish: Wish) -> list[Edit]:
    """Nothing when /etc/resolv.conf is a link to what some daemon writes: it is not in the tree then."""
    if not wish.dns or RESOLVER not in tree:
        return []
    kept = [line for line in tree[RESOLVER].text.splitlines() if line.split()[:1] != ["nameserver"]]
    text = "".join(f"{line}\n" for line in [*kept, *(f"nameserver {server}" for server in wish.dns)])
    return [Edit(RESOLVER, packed(text))] if packed(text) != tree[RESOLVER].content else []


def _text(stanzas: list[Stanza]) -> str:
    return "\n".join(line for stanza in stanzas for line in stanza.lines).rstrip("\n") + "\n"
