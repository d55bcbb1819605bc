"""Does a database answer a query? PostgreSQL by libpq (psycopg2), MariaDB and MySQL by PyMySQL.

The password is not the scenario's: PostgreSQL's comes from the `.pgpass` of the user who asks (libpq), MariaDB's from
his `~/.my.cnf`. Both are the files that these databases' own tools read.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rha.scenario import Check
from rha.watch.base import NoAnswer, Via


def attempt(check: Check, timeout: float, via: Via | None = None) -> float:
    """Seconds until the answer was there. `via`: address and port that is connected to instead of the URL's. Raises
    NoAnswer."""
    begun = time.monotonic()
    ask = _mysql if urlsplit(check.address).scheme == "mysql" else _postgresql
    found = ask(check, begun + timeout, timeout, via)
    if check.expect and found != check.expect:
        raise NoAnswer(f"it answers {found!r} instead of {check.expect!r}")
    return time.monotonic() - begun


def _postgresql(check: Check, until: float, timeout: float, via: Via | None) -> str:
    """The first value of the first row as text; empty: no row. Asynchronously: libpq itself has no time limit for a
    server that has taken the query and does not answer."""
    try:
        import psycopg2
    except ImportError as error:
        raise NoAnswer("psycopg2 is not installed here (apt install python3-psycopg2)") from error
    connection: Any = None
    place = {"hostaddr": via[0], "port": via[1]} if via else {}  # the host's name stays: for ~/.pgpass and TLS
    try:
        connection = psycopg2.connect(check.address, async_=1, application_name="rha", **place)
        _wait(connection, until, timeout)
        cursor = connection.cursor()
        cursor.execute(check.query)
        _wait(connection, until, timeout)
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""
    except psycopg2.Error as error:
        raise NoAnswer(" ".join(str(error).split()) or type(error).__name__) from error
    finally:
        if connection is not None:
            connection.close()


def _wait(connection: Any, until: float, timeout: float) -> None:
    """Until an asynchronous connection has finished what it was told. Raises NoAnswer when time is up."""
    from psycopg2 import extensions

    ways = {extensions.POLL_READ: select.POLLIN, extensions.POLL_WRITE: select.POLLOUT}
    while (state := connection.poll()) != extensions.POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), ways[state])
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise NoAnswer(f"no answer within {timeout:g} s")


def _mysql(check: Check, until: float, timeout: float, via: Via | None) -> str:
    try:
        import pymysql
    except ImportError as error:
        raise NoAnswer("PyMySQL is not installed here (apt install python3-pymysql)") from error
    url, file = urlsplit(check.address), Path.home() / ".my.cnf"
    try:
        connection = pymysql.connect(
            host=via[0] if via else url.hostname,
            port=via[1] if via else url.port or 3306,
            user=url.username,
            database=url.path.lstrip("/") or None,
            connect_timeout=max(1, int(timeout)),
            read_timeout=max(0.1, until - time.monotonic()),
            read_default_file=str(file) if file.exists() else None,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(check.query)
            row = cursor.fetchone()
            return str(row[0]) if row else ""
    except pymysql.MySQLError as error:
        raise NoAnswer(str(error.args[-1]) if error.args else type(error).__name__) from error
    except OSError as error:
        raise NoAnswer(os.strerror(error.errno).lower() if error.errno else str(error)) from error
