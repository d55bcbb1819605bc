"""What makes a scenario's [quiesce] wrong, beyond the types of its values."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from rha.scenario_redirect import FILE_NAME
from rha.schema import Clean, Mistake
from rha.units import show_seconds

MAX_FREEZE_SECONDS = 60.0  # longer than that whoever writes takes the master for dead
SCHEMES = {"postgresql": ("postgresql", "postgres"), "mariadb": ("mysql",)}


def rules(table: Clean) -> Iterator[Mistake]:
    """The mistakes of the table."""
    if not 0 < table.get("limit", 1) <= MAX_FREEZE_SECONDS:
        limit = f"more than zero and at most {show_seconds(MAX_FREEZE_SECONDS)}"
        yield Mistake("quiesce.limit", f"{show_seconds(table['limit'])} is not {limit}: nobody can write meanwhile")
    for index, point in enumerate(table.get("leave", [])):
        if not point.startswith("/"):
            yield Mistake(f"quiesce.leave[{index}]", f"{point!r} is no mount point; it is an absolute path")
    for index, app in enumerate(table.get("app", [])):
        yield from _app(app, f"quiesce.app[{index}]")


def _app(table: Clean, path: str) -> Iterator[Mistake]:
    if table.get("limit", 1) <= 0:
        yield Mistake(f"{path}.limit", "must be more than zero")
    if table.get("user") == "":
        yield Mistake(f"{path}.user", "missing; the name of a user")
    if not FILE_NAME.fullmatch(table.get("run", "x")):
        text = (
            f"{table['run']!r} is no file name; scripts are run from one folder, without a path and without arguments"
        )
        yield Mistake(f"{path}.run", text)
    why = why_no_address(table["address"], SCHEMES[table["kind"]]) if "address" in table else None
    if why:
        yield Mistake(f"{path}.address", why)


def why_no_address(text: str, schemes: tuple[str, ...]) -> str | None:
    """What makes a text no address of a database server, or None. A server is also found by its socket."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError when it is none
    except ValueError as error:
        return f"{text!r} is no URL: {error}"
    if parts.scheme not in schemes:
        return f"{text!r} is no URL of {' or '.join(schemes)}"
    if parts.password or "password" in parse_qs(parts.query):
        return "a password has no place in a scenario; it is taken from ~/.pgpass or ~/.my.cnf of `user`"
    if parts.scheme == "mysql" and not (parts.hostname or parse_qs(parts.query).get("unix_socket")):
        return "names no server; write for example mysql://root@localhost/?unix_socket=/run/mysqld/mysqld.sock"
    return None
