"""All kinds of applications that can be held, by the type of their table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rha.app.base import App, Where
from rha.app.mariadb import Mariadb
from rha.app.postgresql import Postgresql
from rha.app.script import Script
from rha.scenario import QuiesceMariadb, QuiescePostgresql, QuiesceScript

KINDS: dict[type, Callable[[Any, Where], App]] = {
    QuiescePostgresql: Postgresql,
    QuiesceMariadb: Mariadb,
    QuiesceScript: Script,
}
