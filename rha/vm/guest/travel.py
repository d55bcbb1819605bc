"""What travels between the appliance and the process that looks into a guest: JSON on its standard input and output."""

from __future__ import annotations

from typing import Literal

import msgspec

from rha.vm.base import Bus
from rha.vm.guest.tree import File, Wish


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was before it was changed, and as it was left. `before` None: there was none, and it was made, with
    the folders `made`. `modified`: nanoseconds; valid iff `before` is."""

    path: str
    before: File | None
    after: bytes
    modified: int = 0
    made: list[str] = []


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`exports`: the disks, in their order. `uid`, `gids`: who the process becomes; its own group first. `tcg`: without
    kvm. For adapt: `wish` (its driver is filled in), `mark`, and `bus`, empty: to be looked up. For revert: `kept`."""

    act: Literal["adapt", "revert"]
    exports: list[tuple[str, str]] = []  # path of the socket, name of the export
    uid: int = -1
    gids: list[int] = []
    tcg: bool
    wish: Wish = Wish()
    mark: bytes = b""
    bus: Bus | Literal[""] = ""
    kept: list[Kept] = []


class Answer(msgspec.Struct, kw_only=True):
    """`error`: what failed; empty when it went well. `system`: the guest's, in its own words. `bus`: as asked, or as
    looked up; `bus_why` is valid iff it was looked up. After revert `kept` is what was found changed since, in its
    `before`."""

    error: str = ""
    cause: str = ""
    system: str = ""
    bus: Bus | Literal[""] = ""
    bus_why: str = ""
    said: list[str] = []
    warnings: list[str] = []
    kept: list[Kept] = []
    launch_seconds: float = 0.0
    seconds: float = 0.0
