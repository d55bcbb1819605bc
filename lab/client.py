"""A client of the server's database, as a process of its own: `python -m lab.client NAME FILE DNS-SERVER`.

It looks the name up, connects, and commits numbered rows one after the other; when that fails it looks the name up
anew and goes on with the next number, until SIGTERM. Every attempt goes to FILE (lab/ledger.py). Without an answer from
DNS it uses the last one, as a resolver that serves stale records does: it is the client that clings to the old server.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import dns.exception
import dns.resolver
import msgspec
import psycopg2
import psycopg2.extensions

from demo.ledger import checksum, payload
from lab.ledger import Attempt

NAME = "db.lab.test"
PORT = 5432
BETWEEN_COMMITS_SECONDS = 0.03
BETWEEN_CONNECTIONS_SECONDS = 0.25
# Nothing that is silent for three seconds is waited for any longer: a server without power ends no connection. One that
# is only slow, as in an emulated machine, needs longer for a new connection, and each new attempt makes it slower.
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 3000, "keepalives_idle": 1, "keepalives_interval": 1}
CREATE = """
CREATE TABLE IF NOT EXISTS commits (client text, id bigint, checksum text NOT NULL, payload bytea NOT NULL,
    server inet NOT NULL DEFAULT inet_server_addr(), PRIMARY KEY (client, id))"""
INSERT = "INSERT INTO commits (client, id, checksum, payload) VALUES (%s, %s, %s, %s)"


def connect(address: str) -> psycopg2.extensions.connection:
    """To the database at an address, every statement its own commit. Raises psycopg2.OperationalError."""
    options = {"host": address, "port": PORT, "dbname": "demo", "user": "demo", "sslmode": "disable"}
    connection = psycopg2.connect(**options, **PATIENCE, keepalives_count=2)
    connection.autocommit = True
    return connection


class Client:
    """The loop. `stop` may be called from a signal handler."""

    def __init__(self, name: str, file: Path, dns_server: str) -> None:
        self._name, self._file = name, file.open("ab", buffering=0)
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [dns_server]
        self._resolver.lifetime = 2.0
        self._address = ""
        self._next = 1
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.wait(BETWEEN_CONNECTIONS_SECONDS):
            self._look_up()
            if self._address:
                self._serve_from(self._address)

    def _look_up(self) -> None:
        try:
            self._address = str(self._resolver.resolve(NAME, "A", tcp=False)[0])
        except dns.exception.DNSException as error:
            print(f"{self._name}: {NAME}: {error}", file=sys.stderr, flush=True)

    def _serve_from(self, address: str) -> None:
        """One connection, for as long as it lasts."""
        try:
            connection = connect(address)
        except psycopg2.Error as error:
            self._note(Attempt(0, time.time(), address, why=_first_line(error)))
            return
        try:
            with connection.cursor() as cursor:
                cursor.execute(CREATE)
            while not self._stopping.wait(BETWEEN_COMMITS_SECONDS) and self._commit(connection, address):
                pass
        except psycopg2.Error as error:  # of CREATE
            self._note(Attempt(0, time.time(), address, why=_first_line(error)))
        finally:
            connection.close()

    def _commit(self, connection: psycopg2.extensions.connection, address: str) -> bool:
        row, self._next = self._next, self._next + 1
        content, sent = payload(row), time.time()
        try:
            with connection.cursor() as cursor:
                cursor.execute(INSERT, (self._name, row, checksum(content), psycopg2.Binary(content)))
        except psycopg2.Error as error:
            self._note(Attempt(row, sent, address, why=_first_line(error)))
            return False
        self._note(Attempt(row, sent, address, acked=time.time()))
        return True

    def _note(self, attempt: Attempt) -> None:
        self._file.write(msgspec.json.encode(attempt) + b"\n")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def main(name: str, file: str, dns_server: str) -> int:
    client = Client(name, Path(file), dns_server)

    def stop(_number: int, _frame: FrameType | None) -> None:
        client.stop()

    signal.signal(signal.SIGTERM, stop)
    client.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
