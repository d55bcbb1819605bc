"""Real database servers in folders of their own, as their own users."""

from __future__ import annotations

import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
import pymysql

from tests.redirect.wires import eventually

POSTGRESQL = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())
START_SECONDS = 90.0


def run_as(user: str) -> dict[str, Any]:
    found = pwd.getpwnam(user)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": [], "cwd": "/"}


class Server:
    """`folder` for its data; `sockets` for its socket and log."""

    user: str
    end: signal.Signals

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder, self.sockets = folder, sockets
        self.process: subprocess.Popen[bytes] | None = None
        self.log = sockets / "log"
        for path in (folder, sockets):
            path.mkdir(exist_ok=True)
            shutil.chown(path, self.user, self.user)

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, **run_as(self.user))
        eventually(self.answers, START_SECONDS)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(self.end)
            self.process.wait(60)
            self.process = None

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.ask("SELECT 1")
        except (psycopg2.OperationalError, pymysql.OperationalError):
            return False
        return True

    def command(self) -> list[str]:
        raise NotImplementedError

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        raise NotImplementedError


class Postgresql(Server):
    """Its role is called postgres, as its system user."""

    user, end = "postgres", signal.SIGQUIT

    def create(self) -> None:
        words = [str(POSTGRESQL / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "--locale=C"]
        subprocess.run(words, check=True, capture_output=True, **run_as(self.user))

    def command(self) -> list[str]:
        words = ["-D", str(self.folder / "data"), "-k", str(self.sockets), "-h", "", "-c", "autovacuum=off"]
        return [str(POSTGRESQL / "postgres"), *words]

    @property
    def address(self) -> str:
        return f"postgresql:///postgres?host={self.sockets}&user=postgres"

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.address)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()


class Mariadb(Server):
    """The system's root is its root (unix_socket)."""

    user, end = "mysql", signal.SIGTERM

    def create(self) -> None:
        words = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.folder / 'data'}"]
        options = ["--skip-test-db", "--auth-root-authentication-method=socket"]
        subprocess.run([*words, *options], check=True, capture_output=True)

    def command(self) -> list[str]:
        words = ["--no-defaults", f"--datadir={self.folder / 'data'}", f"--socket={self.socket}", "--skip-networking"]
        return ["mariadbd", *words, f"--pid-file={self.sockets / 'pid'}", "--innodb-log-file-size=16M"]

    @property
    def socket(self) -> Path:
        return self.sockets / "socket"

    @property
    def address(self) -> str:
        return f"mysql://root@localhost/?unix_socket={self.socket}"

    def connect(self) -> Any:
        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
