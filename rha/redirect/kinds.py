"""All kinds of redirections, by the type of their table; and the order in which a scenario's are done."""

from __future__ import annotations

from rha.redirect.base import Memory, Place, Redirection
from rha.scenario import MoveIp, Redirect, RewriteDns, RunScript, TakeAlias, TakeName


def in_order(tables: list[Redirect], place: Place) -> list[Redirection]:
    """What this side does at `apply`: scripts at "before", then everything else as in the file, then scripts at
    "after"."""
    return _made(sorted(_here(tables, place), key=lambda item: _rank(item[1])), place)


def in_order_back(tables: list[Redirect], place: Place) -> list[Redirection]:
    """The same for `revert`: everything else backwards; scripts stay before and after."""
    back = list(reversed(_here(tables, place)))
    return _made(sorted(back, key=lambda item: _rank(item[1])), place)


def _here(tables: list[Redirect], place: Place) -> list[tuple[int, Redirect]]:
    return [
        (number, table)
        for number, table in enumerate(tables)
        if not isinstance(table, RunScript) or table.side in (place.side, "both")
    ]


def _rank(table: Redirect) -> int:
    return {"before": 0, "after": 2}[table.at] if isinstance(table, RunScript) else 1


def _made(tables: list[tuple[int, Redirect]], place: Place) -> list[Redirection]:
    return [
        _made_one(table, place, Memory(place.memory / f"{number}-{table.__struct_config__.tag}.json"))
        for number, table in tables
    ]


def _made_one(table: Redirect, place: Place, memory: Memory) -> Redirection:
    """A kind's file is imported when it is used: netlink and DNS take 15 MiB, and few masters need them."""
    if isinstance(table, MoveIp):
        from rha.redirect.ip import move_ip

        return move_ip(table, place, memory)
    if isinstance(table, TakeName):
        from rha.redirect.hostname import Hostname

        return Hostname(table, place, memory)
    if isinstance(table, RewriteDns):
        from rha.redirect.dns import Dns

        return Dns(table, place, memory)
    if isinstance(table, TakeAlias):
        from rha.redirect.alias import Alias

        return Alias(table, place, memory)
    from rha.redirect.script import Script

    return Script(table, place, memory)
