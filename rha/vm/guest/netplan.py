"""netplan: `*.yaml` in /etc/netplan, merged in the order of their names (netplan.readthedocs.io, "YAML configuration").

Scalars are kept as the texts they are: YAML 1.1 would read the MAC address 52:54:00:12:34:56 as a number to the base
of 60. Comments are lost in a file that is changed; they come back with it at the switchback.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml

from rha.vm.guest.tree import Edit, Profile, Tree, Unknown, Wish, family, files_in, packed, plain_name

NAME = "netplan"
FOLDER = "/etc/netplan"
MAX_YAML_BYTES = 64 << 10  # PyYAML reads 30 KB a second in a slow hour, and is asked three times
_KINDS = ("ethernets", "bonds", "bridges", "vlans")
_DEFAULTS = {"default": 0, "0.0.0.0/0": 4, "::/0": 6, "0/0": 4}
_TRUE = ("true", "yes", "on", "y")
_HARDWARE = ("macaddress", "driver")

Table = dict[str, Any]
Documents = dict[str, Table]  # by path


_Bases: Any = (yaml.emitter.Emitter, yaml.serializer.Serializer, yaml.representer.SafeRepresenter)


class _Dumper(*_Bases, yaml.resolver.BaseResolver):  # type: ignore[misc]
    """Writes texts as they are, without quotes where the grammar allows it."""

    def __init__(self, stream: Any, **options: Any) -> None:
        yaml.emitter.Emitter.__init__(self, stream, allow_unicode=True)
        yaml.serializer.Serializer.__init__(self)
        yaml.representer.SafeRepresenter.__init__(self, default_flow_style=False, sort_keys=False)
        yaml.resolver.BaseResolver.__init__(self)


def profiles(tree: Tree) -> list[Profile]:
    """One for each ethernet, bond, bridge and VLAN, merged over all files. Raises Unknown."""
    documents = _load(tree)
    found = []
    for kind, key in _keys(documents):
        parts = _parts(documents, kind, key)
        match = _merged(parts, "match")
        named = str(match.get("name", "")) if match else key
        if "set-name" in (merged := _all(parts)):
            named = str(merged["set-name"])
        elif match and not match.get("name"):
            named = ""
        found.append(
            Profile(
                system=NAME,
                key=f"{kind}/{key}",
                name=plain_name(named),
                mac=str(match.get("macaddress", "")),
                below=tuple(_below(kind, parts)),
                gateway=_leads_out(parts),
                addressed=_is_addressed(parts),
            )
        )
    return _with_names(found)


def _load(tree: Tree) -> Documents:
    documents: Documents = {}
    for path, file in files_in(tree, FOLDER, ".yaml"):
        if len(file.content) > MAX_YAML_BYTES:
            raise Unknown(f"{path} has {len(file.content)} bytes; nobody has written that by hand")
        try:
            document = yaml.load(file.content, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise Unknown(f"{path} is not understood: {str(error).splitlines()[0]}") from error
        if isinstance(document, dict) and isinstance(document.get("network"), dict):
            documents[path] = document
    return documents


def _keys(documents: Documents) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for document in documents.values():
        for kind in _KINDS:
            definitions = document["network"].get(kind)
            if isinstance(definitions, dict):
                found |= {(kind, key): None for key, value in definitions.items() if isinstance(value, dict)}
    return list(found)


def _parts(documents: Documents, kind: str, key: str) -> list[Table]:
    """What each file says of one interface; the files' own tables, so that they can be changed."""
    found = []
    for document in documents.values():
        definitions = document["network"].get(kind)
        if isinstance(definitions, dict) and isinstance(definitions.get(key), dict):
            found.append(definitions[key])
    return found


def _all(parts: list[Table]) -> Table:
    return {key: value for part in parts for key, value in part.items()}


def _merged(parts: list[Table], key: str) -> Table:
    return _all([part[key] for part in parts if isinstance(part.get(key), dict)])


def _lists(parts: list[Table], key: str) -> list[Any]:
    return [item for part in parts if isinstance(part.get(key), list) for item in part[key]]


def _below(kind: str, parts: list[Table]) -> list[str]:
    links = [str(part["link"]) for part in parts if "link" in part] if kind == "vlans" else []
    return [*links, *map(str, _lists(parts, "interfaces"))]


def _with_names(found: list[Profile]) -> list[Profile]:
    """netplan names what an interface is made of by its keys in the file; here: by the interfaces' names."""
    names = {profile.key.partition("/")[2]: profile.name for profile in found}
    return [replace(each, below=tuple(names.get(key, key) or key for key in each.below)) for each in found]


def _is_true(value: object) -> bool:
    return str(value).lower() in _TRUE


def _leads_out(parts: list[Table]) -> bool:
    merged = _all(parts)
    routes = any(isinstance(route, dict) and route.get("to") in _DEFAULTS for route in _lists(parts, "routes"))
    return routes or any(key in merged for key in ("gateway4", "gateway6")) or _is_true(merged.get("dhcp4"))


def _is_addressed(parts: list[Table]) -> bool:
    merged = _all(parts)
    return bool(_lists(parts, "addresses")) or any(_is_true(merged.get(key)) for key in ("dhcp4", "dhcp6"))


def fit_card(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """A match by hardware is for the new card. The other cards are not there: netplan 1.0 has the boot wait two minutes
    for each that is not optional."""
    documents = _load(tree)
    changed = False
    for kind, key in _keys(documents):
        if kind == "ethernets" and (kind, key) != _split(profile):
            part = _parts(documents, kind, key)[-1]
            changed = changed or not _is_true(part.get("optional"))
            part["optional"] = "true"
    for part in _parts(documents, *_split(profile)):
        match = part.get("match")
        if isinstance(match, dict) and any(key in match for key in _HARDWARE):
            for key in _HARDWARE:
                match.pop(key, None)
            match["macaddress"] = wish.mac
            changed = True
    return _edits(tree, documents) if changed else []


def set_up(tree: Tree, profile: Profile, wish: Wish) -> list[Edit]:
    """Addresses, default route and name servers: out of every file that speaks of the interface, into the last one."""
    documents = _load(tree)
    parts = _parts(documents, *_split(profile))
    for part in parts:
        _clear(part, wish)
    last = parts[-1]
    for version in sorted(wish.addressed):
        last[f"dhcp{version}"] = "false"
    if wish.addresses:
        last["addresses"] = [*_lists([last], "addresses"), *wish.addresses]
    if wish.gateways:
        routes = [{"to": "0.0.0.0/0" if family(via) == 4 else "::/0", "via": via} for via in wish.gateways]
        last["routes"] = [*_lists([last], "routes"), *routes]
    if wish.dns:
        last["nameservers"] = {**_merged([last], "nameservers"), "addresses": list(wish.dns)}
    return _edits(tree, documents)


def _clear(part: Table, wish: Wish) -> None:
    for version in wish.addressed:
        part.pop(f"dhcp{version}", None)
    for version in wish.routed:
        part.pop(f"gateway{version}", None)
    _keep(part, "addresses", lambda item: family(_address_of(item)) not in wish.addressed)
    _keep(part, "routes", lambda item: not _is_replaced(item, wish))
    if wish.dns and isinstance(part.get("nameservers"), dict):
        part["nameservers"].pop("addresses", None)


def _keep(part: Table, key: str, test: Any) -> None:
    if isinstance(part.get(key), list):
        part[key] = [item for item in part[key] if test(item)]
        if not part[key]:
            del part[key]


def _address_of(item: object) -> str:
    """`192.0.2.10/24`, or that as the only key of a table with its lifetime."""
    return str(next(iter(item), "")) if isinstance(item, dict) else str(item)


def _is_replaced(route: object, wish: Wish) -> bool:
    if not isinstance(route, dict) or route.get("to") not in _DEFAULTS:
        return False
    return (_DEFAULTS[route["to"]] or family(str(route.get("via", "")))) in wish.routed


def _split(profile: Profile) -> tuple[str, str]:
    kind, _, key = profile.key.partition("/")
    return kind, key


def _edits(tree: Tree, documents: Documents) -> list[Edit]:
    found = []
    for path, document in documents.items():
        before = yaml.load(tree[path].content, Loader=yaml.BaseLoader)
        if before != document:
            found.append(Edit(path, packed(yaml.dump(document, Dumper=_Dumper))))
    return found
