"""Applications that are held by their holders: real servers, real programs, and an engine that is killed meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pymysql
import pytest

from rha.app.base import Where
from rha.app.held import Held, in_order
from rha.app.mariadb import words
from rha.errors import HostError, RhaError, StateError
from rha.scenario import Duration, QuiesceApp, QuiesceMariadb, QuiescePostgresql, QuiesceScript, encode_unit
from tests.app.databases import Mariadb, Postgresql
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root

TRUST = "local all postgres,weak trust\n"  # in pg_hba.conf

# An engine that holds an application, and is killed.
ENGINE = """
import sys, time, msgspec
from pathlib import Path
from rha.app.base import Where
from rha.app.held import Held
from rha.scenario import QuiesceApp, decode_unit
table = msgspec.json.decode(sys.argv[1], type=QuiesceApp, dec_hook=decode_unit)
print(Held(table, Where("shop", Path(sys.argv[2]), Path(sys.argv[3]))).begin(), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Other users must reach it. Not pytest's own, which every other run of pytest closes to them again."""
    with tempfile.TemporaryDirectory(prefix="rha-app-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def mariadb(folder: Path) -> Iterator[Mariadb]:
    server = Mariadb(folder / "mariadb", folder / "mariadb-run")
    server.create()
    server.start()
    server.ask("CREATE DATABASE shop")
    server.ask("CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY) ENGINE=MyISAM")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def postgresql(folder: Path) -> Iterator[Postgresql]:
    server = Postgresql(folder / "postgresql", folder / "postgresql-run")
    server.create()
    (server.folder / "data/pg_hba.conf").write_text(TRUST + "local all all peer\n")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def where(folder: Path) -> Where:
    (folder / "scripts").mkdir(mode=0o755, exist_ok=True)
    return Where("shop", folder / "logs", folder / "scripts")


class Script:
    """A program of the administrator, and the file `said` in the folder that it runs in, which everybody may write."""

    def __init__(self, where: Where) -> None:
        self._file = where.scripts / "calm"
        self._folder = where.scripts.parent / "said"
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o777)
        (self._folder / "said").unlink(missing_ok=True)

    def table(self, text: str, limit: float = 20) -> QuiesceScript:
        self._file.write_text(f"#!/bin/sh\ncd {self._folder}\n{text}\n")
        self._file.chmod(0o755)
        return QuiesceScript(run="calm", limit=Duration(limit))

    @property
    def said(self) -> str:
        return (self._folder / "said").read_text()


@pytest.fixture
def script(where: Where) -> Script:
    return Script(where)


class Insert:
    """An INSERT of somebody else, in a thread of its own."""

    def __init__(self, server: Mariadb) -> None:
        self._thread = threading.Thread(target=server.ask, args=("INSERT INTO shop.orders VALUES ()",))
        self._thread.start()

    def is_done(self) -> bool:
        return not self._thread.is_alive()


def is_waiting(server: Mariadb) -> bool:
    """Does an INSERT wait for a lock?"""
    states = server.ask("SELECT state FROM information_schema.processlist WHERE info LIKE 'INSERT%'")
    return [str(state).startswith("Waiting for") for (state,) in states] == [True]


def lock(server: Mariadb, limit: float = 30) -> QuiesceMariadb:
    return QuiesceMariadb(address=server.address, limit=Duration(limit))


def engine(table: QuiesceApp, where: Where) -> subprocess.Popen[str]:
    """A process that holds an application."""
    text = msgspec.json.encode(table, enc_hook=encode_unit).decode()
    child = [sys.executable, "-c", ENGINE, text, str(where.logs), str(where.scripts)]
    process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def refused(table: QuiesceApp, where: Where) -> RhaError:
    with pytest.raises(RhaError) as refusal:
        Held(table, where).begin()
    return refusal.value


def test_order() -> None:
    """What stops somebody comes last; scripts stay in their order."""
    mariadb, postgresql = QuiesceMariadb(address="mysql://a@b"), QuiescePostgresql(address="postgresql://a@b")
    first, second = QuiesceScript(run="b"), QuiesceScript(run="a")
    assert in_order([mariadb, first, postgresql, second]) == [first, second, postgresql, mariadb]


def test_mariadb_is_locked_until_it_is_let_go(mariadb: Mariadb, where: Where) -> None:
    held = Held(lock(mariadb), where)
    assert held.begin() == "MariaDB: tables flushed and locked"
    insert = Insert(mariadb)
    eventually(lambda: is_waiting(mariadb), 30)
    held.let_go()
    eventually(insert.is_done, 30)


def test_mariadb_is_let_go_when_the_engine_is_killed(mariadb: Mariadb, where: Where) -> None:
    process = engine(lock(mariadb, limit=300), where)
    insert = Insert(mariadb)
    eventually(lambda: is_waiting(mariadb), 30)
    process.kill()
    process.wait()
    eventually(insert.is_done, 30)


def test_mariadb_is_let_go_when_its_time_is_over(mariadb: Mariadb, where: Where) -> None:
    held = Held(lock(mariadb, limit=2), where)
    held.begin()
    eventually(Insert(mariadb).is_done, 30)
    with pytest.raises(RhaError, match=r"what was held was let go after 2 s"):
        held.let_go()


def test_a_lock_that_was_lost_is_no_lock(mariadb: Mariadb, where: Where) -> None:
    held = Held(lock(mariadb), where)
    held.begin()
    ((number,),) = mariadb.ask("SELECT id FROM information_schema.processlist WHERE command = 'Sleep'")
    mariadb.ask(f"KILL {number}")
    with pytest.raises(RhaError, match="MariaDB was not held all the time"):
        held.let_go()


def test_a_long_transaction_is_in_the_way(mariadb: Mariadb, where: Where) -> None:
    """Refused after the limit, and then nobody waits any more."""
    with mariadb.connect() as busy, busy.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.orders WRITE")
        error = refused(lock(mariadb, limit=2), where)
        assert error.what == "MariaDB cannot be held"
        assert "Lock wait timeout exceeded" in error.cause
        cursor.execute("INSERT INTO shop.orders VALUES ()")
        cursor.execute("UNLOCK TABLES")
    eventually(Insert(mariadb).is_done, 30)


def test_mariadb_is_not_there(where: Where) -> None:
    assert "/nowhere" in refused(QuiesceMariadb(address="mysql://root@localhost/?unix_socket=/nowhere"), where).cause


def test_its_password_is_in_the_users_own_file(
    mariadb: Mariadb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mariadb.ask("CREATE USER quiet@localhost IDENTIFIED BY 'secret'")
    address = f"mysql://quiet@localhost/?unix_socket={mariadb.socket}"
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(pymysql.OperationalError, match="Access denied"):
        pymysql.connect(**words(address))
    (tmp_path / ".my.cnf").write_text("[client]\npassword = secret\n")
    pymysql.connect(**words(address)).close()


def test_postgresql_writes_a_checkpoint(postgresql: Postgresql, where: Where) -> None:
    """Connected as the system's user: the server asks for no more (peer)."""
    postgresql.ask("CREATE ROLE www LOGIN IN ROLE pg_checkpoint")
    query = "SELECT checkpoint_lsn FROM pg_control_checkpoint()"
    before = postgresql.ask(query)
    address = f"postgresql:///postgres?host={postgresql.sockets}&user=www"
    table = QuiescePostgresql(address=address, user="www-data")
    assert 'Peer authentication failed for user "www"' in refused(table, where).cause
    (postgresql.folder / "data/pg_hba.conf").write_text(TRUST + "local all all peer map=rha\n")
    (postgresql.folder / "data/pg_ident.conf").write_text("rha www-data www\n")
    postgresql.ask("SELECT pg_reload_conf()")

    def is_done() -> bool:
        try:
            held = Held(table, where)
            assert held.begin() == "PostgreSQL: checkpoint"
            held.let_go()
        except RhaError:
            return False  # it has not read its files yet
        return True

    eventually(is_done, 30)
    assert postgresql.ask(query) != before


def test_postgresql_refuses(postgresql: Postgresql, where: Where) -> None:
    postgresql.ask("CREATE ROLE weak LOGIN")
    error = refused(QuiescePostgresql(address=f"postgresql:///postgres?host={postgresql.sockets}&user=weak"), where)
    assert error.what == "PostgreSQL made no checkpoint"
    assert "pg_checkpoint" in error.cause


def test_a_server_that_says_nothing(where: Where) -> None:
    """It takes the connection and does not answer: its holder ends by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"postgresql://postgres@127.0.0.1:{server.getsockname()[1]}/postgres"
        begun = time.monotonic()
        error = refused(QuiescePostgresql(address=address, limit=Duration(0.5)), where)
    assert isinstance(error, StateError)
    assert error.what == "postgresql could not be held"
    assert time.monotonic() - begun < 60


def test_no_such_user(where: Where) -> None:
    error = refused(QuiescePostgresql(address="postgresql://a@b", user="nobody-at-all"), where)
    assert isinstance(error, HostError)
    assert "this host has no user nobody-at-all" in error.what


def test_script_holds_and_lets_go(script: Script, where: Where) -> None:
    held = Held(script.table("id -un >> said; env | grep ^RHA_ | sort >> said"), where)
    assert held.begin() == "script calm"
    assert script.said.splitlines() == ["nobody", "RHA_ACT=hold", "RHA_LIMIT=20", "RHA_SCENARIO=shop"]
    held.let_go()
    assert "RHA_ACT=let-go" in script.said.splitlines()


def test_script_vetoes(script: Script, where: Where) -> None:
    """By then it has undone its own part: it is not called again."""
    held = Held(script.table('echo "$RHA_ACT" >> said; echo too busy; exit 3'), where)
    with pytest.raises(RhaError) as refusal:
        held.begin()
    assert refusal.value.what == "script calm vetoes (exit code 3)"
    assert refusal.value.cause == "it said: too busy"
    eventually(lambda: held._process.poll() is not None, 30)
    assert script.said == "hold\n"


def test_script_that_hangs_is_killed_and_told_to_let_go(script: Script, where: Where) -> None:
    table = script.table('echo "$RHA_ACT" >> said; [ "$RHA_ACT" = let-go ] || sleep 600', limit=1)
    assert refused(table, where).what.startswith("script calm ran longer than 1 s")
    eventually(lambda: script.said == "hold\nlet-go\n", 30)


def test_script_lets_go_when_the_engine_is_killed(script: Script, where: Where) -> None:
    process = engine(script.table('echo "$RHA_ACT" >> said', limit=300), where)
    process.kill()
    process.wait()
    eventually(lambda: script.said == "hold\nlet-go\n", 30)


def test_script_that_cannot_let_go_is_told(script: Script, where: Where) -> None:
    held = Held(script.table('[ "$RHA_ACT" = hold ] || exit 4'), where)
    held.begin()
    with pytest.raises(RhaError, match=r"script calm failed to let go \(exit code 4\)"):
        held.let_go()


def test_script_that_anybody_could_write_is_not_run(script: Script, where: Where) -> None:
    table = script.table("exit 0")
    (where.scripts / "calm").chmod(0o777)
    assert refused(table, where).what.endswith("is not run")


def test_holder_is_killed(mariadb: Mariadb, where: Where) -> None:
    held = Held(lock(mariadb), where)
    held.begin()
    os.kill(held._process.pid, signal.SIGKILL)
    with pytest.raises(StateError, match="mariadb could not be held"):
        held.let_go()
    eventually(Insert(mariadb).is_done, 30)
