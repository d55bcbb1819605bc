"""The client of the database: commits numbered rows, logs every acknowledgement; later reads them back and compares."""

from __future__ import annotations

import threading
import time

import psycopg2
import psycopg2.extensions

from demo.judge import Found
from demo.ledger import Ack, AckLog, checksum, is_intact, payload
from rha.errors import VmError

BETWEEN_COMMITS_SECONDS = 0.005
CREATE = "CREATE TABLE ledger (id bigint PRIMARY KEY, checksum text NOT NULL, payload bytea NOT NULL)"
INSERT = "INSERT INTO ledger VALUES (%s, %s, %s)"
TABLES = "SELECT oid, oid::regclass::text FROM pg_class WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'"
INDEXES = """
SELECT c.oid, c.oid::regclass::text
FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND i.indisvalid"""


def connect(port: int, seconds: float = 2.0) -> psycopg2.extensions.connection:
    """A connection to the demo's database on a port of loopback, every statement its own commit.

    Raises psycopg2.OperationalError when nobody answers within the time.
    """
    options = {"host": "127.0.0.1", "port": port, "dbname": "demo", "user": "demo", "sslmode": "disable"}
    connection = psycopg2.connect(connect_timeout=max(2, round(seconds)), **options)
    connection.autocommit = True
    return connection


def wait_for_database(port: int, seconds: float) -> float:
    """Waits until a query is answered; a port that merely accepts is not enough. Returns the time of the answer.

    Raises VmError when there is no answer in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = connect(port)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.close()
            return time.time()
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                raise VmError("the database does not answer", cause=str(error).strip()) from error
            time.sleep(0.2)


class Writer:
    """Commits rows 1, 2, 3… in a thread until the database is gone or `stop` is called."""

    def __init__(self, port: int, log: AckLog) -> None:
        self.sent = 0  # the last row submitted, acknowledged or not
        self.end = ""  # why the thread ended
        self._log = log
        self._connection = connect(port)
        self._may_run = threading.Event()
        self._idle = threading.Event()
        self._stopping = False
        with self._connection.cursor() as cursor:
            cursor.execute(CREATE)
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self._may_run.set()
        self._thread.start()

    def pause(self) -> None:
        """Returns when no commit is on its way."""
        self._idle.clear()
        self._may_run.clear()
        while self._thread.is_alive() and not self._idle.wait(0.1):
            pass

    def go_on(self) -> None:
        self._may_run.set()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread; also after the database has died."""
        self._stopping = True
        self._may_run.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            while not self._stopping:
                if not self._may_run.is_set():
                    self._idle.set()
                    self._may_run.wait()
                    continue
                self._commit(self.sent + 1)
                time.sleep(BETWEEN_COMMITS_SECONDS)
            self.end = "stopped"
        except psycopg2.Error as error:
            self.end = str(error).strip().splitlines()[0]

    def _commit(self, row: int) -> None:
        content = payload(row)
        self.sent = row
        with self._connection.cursor() as cursor:
            cursor.execute(INSERT, (row, checksum(content), psycopg2.Binary(content)))
        self._log.add(Ack(row, time.time(), len(content)))


def read_back(port: int) -> Found:
    """Reads every row of the table, then every page of every table and B-tree through amcheck.

    Raises psycopg2.Error when the database cannot read its own files.
    """
    connection = connect(port, seconds=10)
    try:
        rows, damaged = _read_rows(connection)
        return Found(rows, damaged, amcheck(connection))
    finally:
        connection.close()


def _read_rows(connection: psycopg2.extensions.connection) -> tuple[list[int], list[int]]:
    rows: list[int] = []
    damaged: list[int] = []
    connection.autocommit = False
    with connection.cursor("ledger") as cursor:  # named: read in portions
        cursor.itersize = 500
        cursor.execute("SELECT id, checksum, payload FROM ledger ORDER BY id")
        for row, stored, content in cursor:
            rows.append(row)
            if not is_intact(row, stored, bytes(content)):
                damaged.append(row)
    connection.rollback()
    connection.autocommit = True
    return rows, damaged


def amcheck(connection: psycopg2.extensions.connection) -> list[str]:
    """pg_amcheck's two questions, asked by SQL: no server package is needed on this host."""
    faults: list[str] = []
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        for oid, table in cursor.fetchall():  # by number: the demo's role may not look names up in pg_toast
            cursor.execute("SELECT blkno, offnum, msg FROM verify_heapam(%s, check_toast => true)", (oid,))
            faults += [f"{table} block {block} line {line}: {text}" for block, line, text in cursor.fetchall()]
        cursor.execute(INDEXES)
        for oid, index in cursor.fetchall():
            try:
                cursor.execute("SELECT bt_index_check(%s, heapallindexed => true)", (oid,))
            except psycopg2.errors.IndexCorrupted as error:
                faults.append(f"{index}: {str(error).splitlines()[0]}")
    return faults
