"""What a server's database holds, read by SQL: rows, their content, and which address each was committed at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.extensions

from demo.client import amcheck, wait_for_database
from demo.database import Database
from demo.ledger import is_intact
from demo.setting import free_ports
from lab.disks import ServerDisks
from lab.judge import Held

PORT_SECONDS = 120.0


def read(host: str, port: int) -> Held:
    """Every row, and amcheck's word on every page. Raises psycopg2.Error when the database cannot read its files."""
    options = {"host": host, "port": port, "dbname": "demo", "user": "demo", "sslmode": "disable"}
    with contextlib.closing(psycopg2.connect(connect_timeout=10, **options)) as connection:
        servers, damaged = _rows(connection)
        connection.autocommit = True
        return Held(servers, damaged, amcheck(connection))


def read_disks(disks: ServerDisks, folder: Path) -> Held:
    """The same from the disks of a machine that is off, by its own PostgreSQL. Writes to them: it recovers."""
    with _serving(disks, folder) as port:
        return read("127.0.0.1", port)


@contextlib.contextmanager
def _serving(disks: ServerDisks, folder: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    with disks.mounted(folder / "root") as root:
        database = Database(root, port, folder / "master-postgresql.log")
        try:
            wait_for_database(port, PORT_SECONDS)
            yield port
        finally:
            database.kill()


def _rows(connection: psycopg2.extensions.connection) -> tuple[dict[tuple[str, int], str], list[tuple[str, int]]]:
    servers: dict[tuple[str, int], str] = {}
    damaged = []
    with connection.cursor("commits") as cursor:  # named: read in portions
        cursor.itersize = 500
        cursor.execute("SELECT client, id, host(server), checksum, payload FROM commits ORDER BY client, id")
        for client, row, server, stored, content in cursor:
            servers[client, row] = server
            if not is_intact(row, stored, bytes(content)):
                damaged.append((client, row))
    connection.rollback()
    return servers, damaged
