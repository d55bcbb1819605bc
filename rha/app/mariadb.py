"""MariaDB and MySQL: all tables closed, and nobody may write, while the file systems are frozen.

FLUSH TABLES WITH READ LOCK on a connection of its own: MyISAM and Aria tables are whole on the disk, InnoDB's log is,
and no transaction commits meanwhile. InnoDB starts from its own log, as after a power cut.

While the lock is waited for, everybody who wants to write waits behind it, and a query that runs for minutes keeps it
waiting. So tables are first flushed without the lock, and the limit is short.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rha.app.base import App, Where
from rha.errors import HostError, StateError
from rha.redirect.base import Deadline
from rha.scenario import QuiesceMariadb


class Mariadb(App):
    def __init__(self, table: QuiesceMariadb, where: Where) -> None:
        self._address = table.address
        self._connection: Any = None

    def hold(self, deadline: Deadline) -> str:
        try:
            import pymysql
        except ImportError as error:
            raise HostError("PyMySQL is not installed here", hint="apt install python3-pymysql") from error
        try:
            self._connection = pymysql.connect(**words(self._address), connect_timeout=max(1, int(deadline.left())))
            with self._connection.cursor() as cursor:
                cursor.execute("SET SESSION lock_wait_timeout = %s", (max(1, int(deadline.left())),))
                cursor.execute("FLUSH LOCAL TABLES")
                cursor.execute("FLUSH TABLES WITH READ LOCK")
                cursor.execute("FLUSH LOCAL ENGINE LOGS")  # commits that innodb_flush_log_at_trx_commit has put off
        except pymysql.MySQLError as error:
            hint = "its user needs RELOAD; SHOW PROCESSLIST tells which query is in the way"
            raise StateError("MariaDB cannot be held", cause=f"{self._address}: {error.args[-1]}", hint=hint) from error
        return "MariaDB: tables flushed and locked"

    def let_go(self, deadline: Deadline) -> None:
        """The lock lives as long as its connection: one that still answers has held it all the time."""
        import pymysql

        if self._connection is None:
            return
        try:
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute("UNLOCK TABLES")
        except (pymysql.MySQLError, OSError) as error:
            cause = str(error.args[-1]) if error.args else str(error)
            raise StateError("MariaDB was not held all the time", cause=cause, hint="its error log") from error


def words(address: str) -> dict[str, Any]:
    """`mysql://USER@HOST:PORT/?unix_socket=PATH` for pymysql.connect. The password: `~/.my.cnf` of who connects."""
    url, file = urlsplit(address), Path.home() / ".my.cnf"
    socket = parse_qs(url.query).get("unix_socket", [""])[0]
    where = {"unix_socket": socket} if socket else {"host": url.hostname, "port": url.port or 3306}
    found: dict[str, Any] = {**where, "user": url.username}
    return found | ({"read_default_file": str(file)} if file.exists() else {})
