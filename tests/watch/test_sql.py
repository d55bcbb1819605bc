"""SQL checks against a real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.setting import free_ports
from rha.scenario import Check
from rha.watch import sql
from rha.watch.base import NoAnswer
from tests.redirect.wires import eventually

pytestmark = pytest.mark.root
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())


class Database:
    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        user = pwd.getpwnam("postgres")
        folder.mkdir()
        os.chown(folder, user.pw_uid, user.pw_gid)
        words = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
        initdb = [BIN / "initdb", "-D", folder / "data", "-A", "trust", "-N", "-U", "rha"]
        subprocess.run(initdb, check=True, capture_output=True, **words)
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(folder), "-c", "fsync=off"]
        self.process = subprocess.Popen(
            [BIN / "postgres", "-D", folder / "data", *options], stderr=subprocess.DEVNULL, **words
        )
        eventually(self._answers, 30)

    def _answers(self) -> bool:
        try:
            self.ask("SELECT 1")
        except NoAnswer:
            return False
        return True

    def ask(self, query: str, expect: str = "", timeout: float = 5.0) -> float:
        address = f"postgresql://rha@127.0.0.1:{self.port}/postgres"
        return sql.attempt(Check(kind="sql", address=address, query=query, expect=expect), timeout)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if not shutil.which(str(BIN / "postgres")):
        pytest.skip("no PostgreSQL")
    folder = tmp_path_factory.mktemp("postgresql")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    database = Database(folder / "server")
    yield database
    database.process.send_signal(signal.SIGQUIT)
    database.process.wait()


def test_answers(database: Database) -> None:
    assert database.ask("SELECT 1") < 5
    assert database.ask("SELECT count(*) = 1 FROM pg_database WHERE datname = 'postgres'", expect="True") < 5
    assert database.ask("CHECKPOINT") < 5


def test_another_answer(database: Database) -> None:
    with pytest.raises(NoAnswer, match=r"^it answers 'True' instead of 'False'$"):
        database.ask("SELECT NOT pg_is_in_recovery()", expect="False")


def test_its_refusal_is_told(database: Database) -> None:
    with pytest.raises(NoAnswer, match='relation "orders" does not exist'):
        database.ask("SELECT * FROM orders")


def test_a_query_that_takes_too_long(database: Database) -> None:
    with pytest.raises(NoAnswer, match=r"^no answer within 0\.3 s$"):
        database.ask("SELECT pg_sleep(60)", timeout=0.3)


def test_nobody_there() -> None:
    check = Check(kind="sql", address=f"postgresql://rha@127.0.0.1:{free_ports(1)[0]}/postgres")
    with pytest.raises(NoAnswer, match="Connection refused"):
        sql.attempt(check, 2.0)


def test_a_server_that_takes_and_says_nothing() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        check = Check(kind="sql", address=f"postgresql://rha@127.0.0.1:{server.getsockname()[1]}/postgres")
        with pytest.raises(NoAnswer, match="no answer within"):
            sql.attempt(check, 0.3)


def test_connected_to_elsewhere(database: Database) -> None:
    """As through a forward."""
    check = Check(kind="sql", address="postgresql://rha@db.invalid:1/postgres", query="SELECT 6*7", expect="42")
    assert sql.attempt(check, 5.0, ("127.0.0.1", database.port)) < 5
