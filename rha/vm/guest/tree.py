"""The words of this room: files of a guest, what is wished, what is to be written. Everything from a guest is a
stranger's: names are checked before they are used, a text that cannot be understood is Unknown, never a guess."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

MAX_FILE_BYTES = 1 << 20  # of one file; a network set-up has some hundred
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}")  # IFNAMSIZ is 16, with its end


class Unknown(Exception):
    """The guest's set-up is not one that can be changed safely; the text says why."""


class File(msgspec.Struct, frozen=True):
    """A regular file of the guest. `mode`: permission bits."""

    content: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o644

    @property
    def text(self) -> str:
        """Bytes that are no UTF-8 survive the way back through `packed`."""
        return self.content.decode("utf-8", "surrogateescape")


Tree = Mapping[str, File]  # by absolute path


class Edit(msgspec.Struct, frozen=True):
    """A file's new content. One that is there keeps its owner and mode; a new one is root's and gets `mode`."""

    path: str
    content: bytes
    mode: int = 0o644


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the substitute's guest shall be. `addresses` (with prefix length) replace those of their own family on one
    interface, and with them its default route of that family; `dns` replaces all servers. `mac`: of the substitute's
    card, `driver`: the kernel's name for it; both empty: it has no card."""

    mac: str = ""
    driver: str = ""
    interface: str = ""
    addresses: list[str] = []
    gateways: list[str] = []
    dns: list[str] = []
    hostname: str = ""

    @property
    def changes_network(self) -> bool:
        return bool(self.addresses or self.gateways or self.dns)

    @property
    def addressed(self) -> frozenset[int]:
        """4, 6: the families whose addresses are replaced."""
        return frozenset(map(family, self.addresses))

    @property
    def routed(self) -> frozenset[int]:
        """4, 6: the families whose default route is replaced."""
        return self.addressed | frozenset(map(family, self.gateways))

    def of(self, version: int, texts: Iterable[str]) -> list[str]:
        """Those of one family."""
        return [text for text in texts if family(text) == version]


@dataclass(frozen=True)
class Profile:
    """One interface as the guest's files describe it. `name`: as the kernel calls it; empty: any name, or a pattern.
    `below`: names of the interfaces that it is made of; empty: a network card. `gateway`, `addressed`: has a default
    route, an address or asks for one."""

    system: str
    key: str  # within its system
    name: str = ""
    mac: str = ""
    below: tuple[str, ...] = ()
    gateway: bool = False
    addressed: bool = False


def family(text: str) -> int:
    """4 or 6; 0 for what is no address. Prefix length or not."""
    try:
        return ipaddress.ip_interface(text.strip()).version
    except ValueError:
        return 0


def plain_name(text: str) -> str:
    """The text if it can be an interface's name and is no pattern, else empty."""
    return text if _NAME.fullmatch(text) else ""


def packed(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def files_in(tree: Tree, folder: str, suffix: str) -> Iterator[tuple[str, File]]:
    """Files directly in a folder, by name."""
    for path in sorted(tree):
        above, _, name = path.rpartition("/")
        if above == folder and name.endswith(suffix) and not name.startswith("."):
            yield path, tree[path]
