"""All kinds of fences by their tables."""

from __future__ import annotations

from collections.abc import Sequence

from rha.fence.base import Fence, FencePlace
from rha.scenario import Fence as Table
from rha.scenario import FenceIpmi, FenceScript


def made(tables: Sequence[Table], place: FencePlace) -> list[Fence]:
    """The fences in the scenario's order. A kind's file is imported when it is used."""
    return [_made(table, place, number) for number, table in enumerate(tables)]


def _made(table: Table, place: FencePlace, number: int) -> Fence:
    if isinstance(table, FenceScript):
        from rha.fence.script import ScriptFence

        return ScriptFence(table, place, number)
    if isinstance(table, FenceIpmi):
        from rha.fence.ipmi import IpmiFence

        return IpmiFence(table)
    from rha.fence.libvirt import LibvirtFence

    return LibvirtFence(table)
